// Prints as JSON what `firebase deploy` would deploy: Google's tools read the functions, with the settings of .env.example
// and without prompts. The argument is the folder of firebase-tools; nothing is sent anywhere.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(import.meta.url);
const [tools] = process.argv.slice(2);
const { detectFromYaml } = require(join(tools, "lib/deploy/functions/runtimes/discovery/index.js"));
const { resolveBackend } = require(join(tools, "lib/deploy/functions/build.js"));
const { parseStrict } = require(join(tools, "lib/functions/env.js"));

const firebaseConfig = { projectId: "demo-functions", storageBucket: "demo-functions.firebasestorage.app" };
const env = { ...process.env, GCLOUD_PROJECT: "demo-functions", FIREBASE_CONFIG: JSON.stringify(firebaseConfig) };
const binary = join("node_modules", ".bin", "firebase-functions");
execFileSync(process.execPath, [binary, "."], { env: { ...env, FUNCTIONS_MANIFEST_OUTPUT_PATH: "functions.yaml" } });
const build = await detectFromYaml(".", "demo-functions", "nodejs22");
const userEnvs = { ...parseStrict(readFileSync(".env.example", "utf8")), RUNPOD_ENDPOINT: "endpoint-1", REGION: "europe-west1" };
const secrets = build.params.filter(({ type }) => type === "secret").map(({ name }) => name);
// As for the emulator; otherwise the tools ask Google for the secrets.
const { backend, envs } = await resolveBackend({ build, firebaseConfig, userEnvs, nonInteractive: true, isEmulator: true });
const regions = Object.entries(backend.endpoints).map(([region, found]) => [region, Object.keys(found).sort()]);
const values = Object.entries(envs).filter(([, value]) => !value.internal).map(([name, value]) => [name, value.toString()]);
console.log(JSON.stringify({ regions: Object.fromEntries(regions), values: Object.fromEntries(values), secrets }));
