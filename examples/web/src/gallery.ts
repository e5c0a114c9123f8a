// Shows the history, newest first: the blur at once, then the thumbnail, and the picture on tap.

import type { Cursor, HistoryItem } from "@client";
import { blur, over } from "./blur.js";
import { byId, el, icon, toast } from "./dom.js";
import { client } from "./firebase.js";
import { inWords, TASKS, when } from "./words.js";

const PAGE = 30;
const NEWEST = 5;
const MOST = 300; // how far back a job that has just ended may have begun

export const promptOf = ({ document }: HistoryItem): string => String(document.request_data?.["prompt"] ?? "");

export const isVideo = (item: HistoryItem): boolean => item.taskType?.endsWith("video") ?? false;

/** The alternative text of an item. */
export function description(item: HistoryItem): string {
  const what = TASKS[item.taskType ?? ""] ?? "Picture";
  const prompt = promptOf(item);
  const count = item.thumbnails.length > 1 ? `, ${item.thumbnails.length} pictures` : "";
  return `${what}${prompt ? `: ${prompt}` : ""}${count}, ${when(item.createdAt)}`;
}

/** Whether the bucket has the files; an inline result cannot be opened. */
const isStored = ({ document }: HistoryItem): boolean => document.generation_data?.files?.some(({ url }) => url) ?? false;

const begun = (item: HistoryItem | undefined): number => item?.createdAt?.getTime() ?? Number.POSITIVE_INFINITY;

const fileOf = (tile: Element): string => (tile as HTMLElement).dataset["file"] ?? "";

export class Gallery {
  private readonly grid = byId("grid");
  private readonly more = byId<HTMLButtonElement>("more");
  private readonly items = new Map<string, HistoryItem>();
  private next: Cursor | null = null;
  private isCutShort = false; // offline: only the items of the browser's cache are shown
  private favourites = false;
  private turn = 0;

  constructor(private readonly open: (item: HistoryItem) => void) {
    this.more.addEventListener("click", () => void this.page());
    window.addEventListener("online", () => this.isCutShort && void this.page());
    byId("favourites").addEventListener("click", () => this.show(!this.favourites));
  }

  async begin(): Promise<void> {
    this.leave();
    await this.page();
  }

  leave(): void {
    this.turn += 1;
    this.items.clear();
    this.next = null;
    this.isCutShort = false;
    this.grid.replaceChildren();
    this.show(false);
  }

  find(fileUid: string): HistoryItem | undefined {
    return this.items.get(fileUid);
  }

  /**
   * Read the newest few items again, after a job has ended, and on until its own is among them. Returns whether the server
   * has answered; without a network it has not.
   */
  async refresh(fileUid: string): Promise<boolean> {
    const { turn } = this;
    let isSure = false;
    try {
      for (let after: Cursor | null = null, read = 0; read < MOST; read += PAGE) {
        const { items, next, offline } = await client.history({ pageSize: after ? PAGE : NEWEST, after });
        if (turn !== this.turn) return false;
        isSure = !offline;
        for (const item of items) this.put(item);
        if (!next || offline || items.some((item) => item.fileUid === fileUid)) break;
        after = next;
      }
    } catch (error) {
      isSure = false;
      if (turn === this.turn) toast(inWords(error));
    }
    this.arrange();
    return isSure;
  }

  /** Show an item that the app itself has changed, without reading it again. */
  change(item: HistoryItem): void {
    if (!this.items.has(item.fileUid)) return; // deleted, or of a user who was signed in before
    this.put(item);
    this.arrange();
  }

  remove(fileUid: string): void {
    this.items.delete(fileUid);
    const tile = this.tile(fileUid);
    const beside = tile?.nextElementSibling ?? tile?.previousElementSibling;
    tile?.remove();
    this.arrange();
    (beside?.querySelector("button") ?? byId("prompt")).focus();
  }

  /** Show only favourites, or all items. */
  private show(favourites: boolean): void {
    this.favourites = favourites;
    byId("favourites").setAttribute("aria-pressed", String(favourites));
    this.arrange();
  }

  private async page(): Promise<void> {
    const { turn } = this;
    this.more.disabled = true;
    try {
      const { items, next, offline } = await client.history({ pageSize: PAGE, after: this.next });
      if (turn !== this.turn) return;
      this.next = next;
      this.isCutShort = offline;
      if (offline) toast("There is no connection. What you made appears here once there is one.");
      for (const item of items) this.put(item);
    } catch (error) {
      if (turn === this.turn) toast(inWords(error));
    } finally {
      this.more.disabled = false;
    }
    this.arrange();
  }

  /** Show an item at its place: jobs end in another order than they began, and pages may overlap. */
  private put(item: HistoryItem): void {
    if (item.status !== "completed" || !isStored(item) || item.document.hidden) return;
    const there = this.tile(item.fileUid);
    this.items.set(item.fileUid, item);
    const made = this.make(item);
    if (there) return there.replaceWith(made);
    const older = [...this.grid.children].find((tile) => begun(this.items.get(fileOf(tile))) < begun(item));
    this.grid.insertBefore(made, older ?? null);
  }

  private tile(fileUid: string): HTMLElement | null {
    return this.grid.querySelector(`[data-file="${fileUid}"]`);
  }

  private make(item: HistoryItem): HTMLElement {
    const [first] = item.thumbnails;
    const button = el(
      "button",
      { type: "button", class: "tile", "aria-label": description(item), onclick: () => this.open(this.items.get(item.fileUid) ?? item) },
      blur(first?.blurhash ?? null),
      first?.url ? over(first.url, "", { lazy: true }) : null,
      isVideo(item) ? el("span", { class: "badge" }, icon("play")) : null,
      item.thumbnails.length > 1 ? el("span", { class: "badge" }, String(item.thumbnails.length)) : null,
      item.document.favorite ? el("span", { class: "badge heart" }, icon("heart")) : null,
    );
    return el("li", { "data-file": item.fileUid }, button);
  }

  private arrange(): void {
    for (const tile of this.grid.children) {
      const item = this.items.get(fileOf(tile));
      (tile as HTMLElement).hidden = this.favourites && !item?.document.favorite;
    }
    byId("empty").hidden = this.items.size > 0 || this.isCutShort;
    byId("gallery-head").hidden = this.items.size === 0;
    this.more.hidden = this.next === null && !this.isCutShort;
  }
}
