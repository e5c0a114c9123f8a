// node bundle.mjs ENTRY OUT [PROFILE]: bundles a module into one file with React Native's Babel preset, as Metro does for Hermes.
// PROFILE is `hermes-stable`, for today's Hermes, or `default`, which compiles away what Hermes lacked before version 1.
// `node:test` and `node:assert` are replaced by the small ones beside this file.

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
