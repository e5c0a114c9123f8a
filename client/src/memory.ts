// Which jobs are in flight, so that an app that was closed meanwhile finds them again.

import type { GenerationRequest, Open, TaskType } from "./wire.js";

/** A request, also one with fields that a worker knows and this version does not. The backend says who asks. */
export type GenerationInput =
  | GenerationRequest
  | { task_type?: Open<TaskType>; prompt?: string | null; [field: string]: unknown };

/** Where an app keeps small texts: `localStorage` by three arrows, AsyncStorage, or any other store. */
export interface Memory {
  get(key: string): string | null | undefined | Promise<string | null | undefined>;
  set(key: string, value: string): unknown;
  remove(key: string): unknown;
}

/** What has to be known of a job to go on with it. */
export interface Order {
  /** Empty once there is a `jobId`: nobody asks for it again. */
  input: GenerationInput;
  quote?: string;
  /** RunPod's name of the job, once the backend has said it. Without one nobody knows whether it was asked for. */
  jobId?: string;
  /** Whether the job was asked for with a slip: its document is there until somebody deletes it. */
  slip?: boolean;
  /** How often the backend was called for it. */
  asks?: number;
}

/** The orders of each user, under one key. A store that fails costs the memory, never a job. */
export class InFlight {
  private readonly held = new Map<string, Record<string, Order>>();
  private readonly unsaved = new Set<string>();
  private turn: Promise<unknown> = Promise.resolve();

  constructor(private readonly memory: Memory | undefined) {}

  list(uid: string): Promise<string[]> {
    return this.inTurn(async () => Object.keys(await this.read(uid)));
  }

  find(uid: string, fileUid: string): Promise<Order | undefined> {
    return this.inTurn(async () => {
      const orders = await this.read(uid);
      return Object.prototype.hasOwnProperty.call(orders, fileUid) ? orders[fileUid] : undefined;
    });
  }

  put(uid: string, fileUid: string, order: Order): Promise<void> {
    return this.change(uid, (orders) => ({ ...orders, [fileUid]: order }));
  }

  forget(uid: string, fileUid: string): Promise<void> {
    return this.change(uid, (orders) => {
      const { [fileUid]: _, ...others } = orders;
      return others;
    });
  }

  /** Also where nothing of it can be read. */
  forgetAll(uid: string): Promise<void> {
    return this.change(uid, () => ({}));
  }

  private change(uid: string, edit: (orders: Record<string, Order>) => Record<string, Order>): Promise<void> {
    return this.inTurn(async () => {
      const orders = edit(await this.read(uid));
      this.held.set(uid, orders);
      try {
        if (Object.keys(orders).length === 0) await this.memory?.remove(key(uid));
        else await this.memory?.set(key(uid), JSON.stringify(orders));
        this.unsaved.delete(uid);
      } catch {
        this.unsaved.add(uid);
        // A full or closed store: this session still knows.
      }
    });
  }

  private async read(uid: string): Promise<Record<string, Order>> {
    const held = this.held.get(uid) ?? {};
    if (!this.memory || this.unsaved.has(uid)) return held;
    try {
      // Each time: another tab of the same browser may have written there meanwhile.
      return valid(JSON.parse((await this.memory.get(key(uid))) ?? "{}"));
    } catch {
      return held; // nothing there that could be read
    }
  }

  private inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.turn.then(work);
    this.turn = result.catch(() => undefined);
    return result;
  }
}

const key = (uid: string): string => `generation-client/${uid}`;

function valid(value: unknown): Record<string, Order> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new TypeError("these are no orders");
  const entries = Object.entries(value as Record<string, unknown>);
  const isOrder = (order: unknown): order is Order =>
    typeof order === "object" && order !== null && typeof (order as Order).input === "object";
  return Object.fromEntries(entries.filter((entry): entry is [string, Order] => isOrder(entry[1])));
}
