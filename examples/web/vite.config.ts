import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // works under any path
  resolve: { alias: { "@client": fileURLToPath(new URL("../../client/src/index.ts", import.meta.url)) } },
  server: { fs: { allow: ["../.."] } },
  build: { target: "es2022", chunkSizeWarningLimit: 1000 },
});
