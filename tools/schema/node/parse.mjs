// Reads source files with tree-sitter's grammars: node --liftoff-only parse.mjs PACKAGES LANGUAGE=FILE ...
// (without the option V8 goes on to optimize the grammars for half a minute.)
// Prints {"file": [{"line", "text"}]} of what is no code of that language.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, ...wanted] = process.argv.slice(2);
const { Parser, Language } = await import(pathToFileURL(join(packages, "web-tree-sitter", "tree-sitter.js")));

function* wrong(node) {
  if (node.isError || node.isMissing) {
    yield { line: node.startPosition.row + 1, text: node.text.slice(0, 80) };
  } else if (node.hasError) {
    for (const child of node.children) yield* wrong(child);
  }
}

await Parser.init();
const found = {};
for (const [language, file] of wanted.map((one) => one.split("="))) {
  const parser = new Parser();
  parser.setLanguage(await Language.load(join(packages, "tree-sitter-wasms", "out", `tree-sitter-${language}.wasm`)));
  found[file] = [...wrong(parser.parse(readFileSync(file, "utf8")).rootNode)];
}
console.log(JSON.stringify(found));
