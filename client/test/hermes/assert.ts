// The part of `node:assert/strict` that the client's tests use.

const shown = (value: unknown): string => JSON.stringify(value) ?? String(value);

function claim(is: boolean, actual: unknown, expected: unknown, message?: string): void {
  if (!is) throw new Error(`${message ?? "not as expected"}: ${shown(actual)}, and not ${shown(expected)}`);
}

function same(one: unknown, other: unknown): boolean {
  if (Object.is(one, other)) return true;
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return false;
  if (Object.getPrototypeOf(one) !== Object.getPrototypeOf(other)) return false;
  if (one instanceof Set) return same([...one], [...(other as Set<unknown>)]);
  const keys = Object.keys(one);
  const has = (key: string): boolean => Object.prototype.hasOwnProperty.call(other, key);
  const at = (of: object, key: string): unknown => (of as Record<string, unknown>)[key];
  return keys.length === Object.keys(other).length && keys.every((key) => has(key) && same(at(one, key), at(other, key)));
}

async function rejects(result: Promise<unknown>, expected: Record<string, unknown> | (abstract new (...of: never[]) => Error)): Promise<void> {
  const error: unknown = await result.then(
    () => fail("it did not reject"),
    (thrown: unknown) => thrown,
  );
  if (typeof expected === "function") return claim(error instanceof expected, error, expected.name);
  for (const [key, value] of Object.entries(expected)) claim(same((error as typeof expected)[key], value), error, expected);
}

function fail(message: string): never {
  throw new Error(message);
}

export default {
  equal: (actual: unknown, expected: unknown, message?: string) => claim(Object.is(actual, expected), actual, expected, message),
  deepEqual: (actual: unknown, expected: unknown, message?: string) => claim(same(actual, expected), actual, expected, message),
  ok: (value: unknown, message?: string) => claim(Boolean(value), value, true, message),
  match: (text: string, pattern: RegExp) => claim(pattern.test(text), text, String(pattern)),
  rejects,
  fail,
};
