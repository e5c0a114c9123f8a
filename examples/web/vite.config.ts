import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // wherever the folder is put
  resolve: { alias: { "@client": fileURLToPath(new URL("../../client/src/index.ts", import.meta.url)) } },
  server: { fs: { allow: ["../.."] } },
  build: { target: "es2022", chunkSizeWarningLimit: 1000 },
});
