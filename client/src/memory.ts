// Remembers the jobs in flight, so that an app that was closed meanwhile finds them again.

import type { GenerationRequest, Open, TaskType } from "./wire.js";

/** A request, possibly with fields that a worker knows and this version does not. The backend adds the user. */
export type GenerationInput =
  | GenerationRequest
  | { task_type?: Open<TaskType>; prompt?: string | null; [field: string]: unknown };

/** A store of small texts: `localStorage` wrapped in three functions, AsyncStorage, or any other. */
export interface Memory {
  get(key: string): string | null | undefined | Promise<string | null | undefined>;
  set(key: string, value: string): unknown;
  remove(key: string): unknown;
}

/** What a client needs to resume a job. */
export interface Order {
  /** Empty once there is a `jobId`, since the job is then never requested again. */
  input: GenerationInput;
  quote?: string;
  /** RunPod's job id, once the backend has returned it. Without one it is unknown whether the job was submitted. */
  jobId?: string;
  /** Whether the job was requested with an order slip: its document then exists until someone deletes it. */
  slip?: boolean;
  /** How often the backend was called for this job. */
  asks?: number;
  /** Whether the user has cancelled it, of which the server may not know yet. */
  cancelled?: boolean;
}

/** The orders of each user, under one key. If the store fails, the memory is lost but never a job. */
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

  /** Forget all orders, even if the stored ones cannot be read. */
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
        // A full or closed store: `held` serves this session.
      }
    });
  }

  private async read(uid: string): Promise<Record<string, Order>> {
    const held = this.held.get(uid) ?? {};
    if (!this.memory || this.unsaved.has(uid)) return held;
    try {
      // Not cached: another tab of the same browser may have written meanwhile.
      return valid(JSON.parse((await this.memory.get(key(uid))) ?? "{}"));
    } catch {
      return held; // the store fails, or holds something unreadable
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
