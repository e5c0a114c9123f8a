// Simulates hundreds of bad days of a phone: sleep, tunnels, wrong clocks, lost responses, restarts and cancellations, at
// random but reproducibly. In no case may the app lose a living job, pay twice, or leave a listener behind.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Client, GenerationHandle, Memory } from "../src/index.js";
import { settle, told, World, type Job, type Told } from "./world.js";

const FIRST = Number(process.env["CHAOS_FIRST"] ?? 1);
const DAYS = Number(process.env["CHAOS_DAYS"] ?? 300);

/** mulberry32: a seeded random number generator. */
function numbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

class Day {
  readonly world = new World();
  private readonly chance: () => number;
  private readonly kept = new Map<string, string>();
  private client!: Client;
  seen!: Told;
  private handle!: GenerationHandle;
  private working: { job: Job; since: number } | undefined;
  private readonly waits: number;
  private readonly works: number;
  readonly dies: boolean;
  readonly changesMind: boolean;
  died = false;
  cancelled = false;
  private begun = 0;

  constructor(seed: number) {
    this.chance = numbers(seed);
    this.waits = 1000 * this.upTo(300);
    this.works = 1000 * this.upTo(600);
    this.dies = this.chance() < 0.2;
    this.changesMind = this.chance() < 0.25;
  }

  upTo(most: number): number {
    return Math.floor(this.chance() * (most + 1));
  }

  private memory: Memory = {
    get: (key) => this.kept.get(key),
    set: (key, value) => void this.kept.set(key, value),
    remove: (key) => void this.kept.delete(key),
  };

  /** One second of the workers, whether the phone is awake or not. */
  private step = (): void => {
    const { world } = this;
    while (world.queue.length > 0 && world.time - this.begun >= this.waits) {
      const { job, denied } = world.take();
      if (denied === undefined) this.working = { job, since: world.time };
    }
    if (!this.working) return;
    const { job, since } = this.working;
    const fields = world.fields(job.file);
    const mine = fields?.["job_id"] === job.id && fields["status"] === "processing";
    if (!mine) this.working = undefined; // deleted, or claimed by another job
    else if (fields["cancel_requested"] === true) world.fail(job, "cancelled");
    else if (this.dies && !this.died && world.time - since > this.works / 2) {
      this.died = true;
      this.working = undefined;
    } else if (world.time - since >= this.works) world.complete(job);
    else if ((world.time - since) % 10_000 === 0) world.beat(job, { percent: 1 });
  };

  private asleep(seconds: number): void {
    const { world } = this;
    for (let second = 0; second < seconds; second += 1) {
      world.time += 1000;
      world.deafUntil = world.time + 1;
      this.step();
    }
    world.deafUntil = world.time + 1000 * this.upTo(90);
  }

  private watch(begin: (client: Client, onChange: () => void) => GenerationHandle): void {
    this.client = this.world.client({ memory: this.memory });
    this.seen = told((onChange) => begin(this.client, onChange as () => void));
    this.handle = this.seen.handle;
  }

  async live(): Promise<void> {
    const { world } = this;
    world.install();
    this.begun = world.time;
    world.disk = this.chance() < 0.5;
    world.answer = async (_, submit) => {
      const kind = this.upTo(5);
      const broken = Object.assign(new Error("broken"), { code: ["functions/internal", "functions/deadline-exceeded"][this.upTo(1)] });
      if (kind === 0) throw broken; // the call never arrived
      const answer = submit();
      if (kind === 1) throw broken; // the response was lost
      if (kind === 2) return new Promise(() => undefined);
      return answer;
    };
    if (this.chance() < 0.2) world.cut(this.upTo(30));
    this.watch((client, onChange) => client.generate({ prompt: "a fox" }, { onChange }));
    await settle();
    for (let turn = 0; turn < 400 && !this.seen.error && !this.seen.value; turn += 1) {
      await this.turn();
      if (world.time - this.begun > 2 * 3_600_000) break;
    }
    world.restore();
    world.aside = 0;
    await world.awake(20 * 60, (second) => {
      this.step();
      if (this.seen.error || this.seen.value) throw new Done(second);
    }).catch((error: unknown) => {
      if (!(error instanceof Done)) throw error;
    });
    await settle();
  }

  private async turn(): Promise<void> {
    const { world } = this;
    const what = this.chance();
    if (what < 0.15) world.cut(this.upTo(20));
    else if (what < 0.4) world.restore(this.upTo(30));
    else if (what < 0.5) this.asleep(this.upTo(600));
    else if (what < 0.55) world.aside = (this.upTo(48) - 24) * 3_600_000;
    else if (what < 0.58) world.end({ code: "firestore/unavailable" });
    else if (what < 0.64) {
      world.close();
      await settle();
      const { fileUid } = this.handle;
      if (this.seen.error || this.seen.value) return;
      this.watch((client, onChange) => client.resume(fileUid, { onChange }));
    } else if (this.changesMind && !this.cancelled && what < 0.7) {
      this.cancelled = true;
      void this.handle.cancel().catch(() => undefined);
    }
    await world.awake(1 + this.upTo(40), this.step);
  }

  /** Let workers take the jobs that are still queued after the app has its result. */
  drain(): void {
    while (this.world.queue.length > 0) this.world.take();
  }
}
class Done extends Error {
  constructor(readonly second: number) {
    super();
  }
}

test(`${DAYS} bad days lose no job, pay for none twice and leave nothing open`, async () => {
  const ends = new Map<string, number>();
  for (let seed = FIRST; seed < FIRST + DAYS; seed += 1) {
    const day = new Day(seed);
    await day.live();
    const { world, seen } = day;
    const end = seen.value ? "completed" : (seen.error?.code ?? "nothing");
    ends.set(end, (ends.get(end) ?? 0) + 1);
    const about = `day ${seed}: ${end}, died ${day.died}, cancelled ${day.cancelled}`;
    assert.notEqual(end, "nothing", about);
    if (end === "worker_lost" && world.generated.length > 0) assert.ok(day.died, about);
    if (!day.died && !day.cancelled) assert.equal(end, "completed", about);
    if (day.cancelled && !day.died) assert.ok(["cancelled", "completed", "deleted"].includes(end), about);
    const drawn = world.generated.length;
    // After a repeated call a second worker may take over from one that died.
    assert.ok(drawn <= (day.died ? 2 : 1), `${about}: drawn ${drawn} times`);
    if (end === "cancelled") {
      day.drain();
      assert.equal(world.generated.length, drawn, `${about}: drawn after it was cancelled`);
    }
    assert.deepEqual([world.timers.size, world.listeners.size], [0, 0], about);
  }
  assert.ok((ends.get("completed") ?? 0) > DAYS / 3, JSON.stringify([...ends]));
  for (const end of ["worker_lost", "cancelled"]) assert.ok((ends.get(end) ?? 0) > DAYS / 50, JSON.stringify([...ends]));
});
