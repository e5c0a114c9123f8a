// The part of `node:test` that the client's tests use, for engines other than Node: runs tests one by one and prints TAP.

declare function print(text: string): void;
declare function setImmediate(run: () => void): unknown;

type Work = () => unknown;
const cases: { name: string; work: Work }[] = [];
const around: { before: Work[]; after: Work[] } = { before: [], after: [] };

export const beforeEach = (work: Work): number => around.before.push(work);
export const afterEach = (work: Work): number => around.after.push(work);
export const test = (name: string, work: Work): number => cases.push({ name, work });

async function run(): Promise<void> {
  let failed = 0;
  for (const { name, work } of cases) {
    try {
      for (const one of [...around.before, work, ...around.after]) await one();
      print(`ok - ${name}`);
    } catch (error) {
      failed += 1;
      print(`not ok - ${name}\n${String((error as Error)?.stack ?? error)}`);
    }
  }
  print(`# pass ${cases.length - failed}\n# fail ${failed}`);
}

setImmediate(() => void run()); // once all tests are registered
