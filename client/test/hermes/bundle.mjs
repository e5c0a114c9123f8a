// node bundle.mjs ENTRY OUT [PROFILE]: one file of what a module imports, as Metro hands it to Hermes: React Native's preset of Babel
// over it. PROFILE `hermes-stable`, as today, or `default`, which takes away what Hermes did not know before its version 1.
// `node:test` and `node:assert` become the small ones beside this file.

import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { transformSync } from "@babel/core";
import { build } from "esbuild";

const [entry, out, profile = "hermes-stable"] = process.argv.slice(2);
const beside = (name) => fileURLToPath(new URL(name, import.meta.url));
const bundled = await build({
  entryPoints: [entry],
  bundle: true,
  write: false,
  format: "iife",
  globalName: "bundle",
  target: "esnext",
  alias: { "node:test": beside("runner.ts"), "node:assert/strict": beside("assert.ts") },
});
const { code } = transformSync(bundled.outputFiles[0].text, {
  presets: [["@react-native/babel-preset", { unstable_transformProfile: profile, enableBabelRuntime: false }]],
  configFile: false,
  babelrc: false,
  compact: false,
  filename: "bundle.js",
});
writeFileSync(out, code);
