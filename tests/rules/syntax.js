"use strict";
// Parses rules files with the grammar that Firebase publishes. Prints a JSON object with each file's error, or null.
// Needs no emulator and no network.

const fs = require("node:fs");
const { parseForESLint } = require("@firebase/eslint-plugin-security-rules/parser");

function mistake(file) {
  try {
    parseForESLint(fs.readFileSync(file, "utf8"), { filePath: file });
    return null;
  } catch (error) {
    return `${error.message} (line ${error.lineNumber ?? "?"}, column ${error.column ?? "?"})`;
  }
}

const mistakes = Object.fromEntries(process.argv.slice(2).map((file) => [file, mistake(file)]));
console.log(JSON.stringify(mistakes, null, 2));
process.exitCode = Object.values(mistakes).some(Boolean) ? 1 : 0;
