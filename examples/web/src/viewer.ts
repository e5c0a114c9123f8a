// Shows a result large, first the blur, then the thumbnail, then the picture, with the actions on it.

import type { GenerationFile, HistoryItem } from "@client";
import { blur, over } from "./blur.js";
import { asked, byId, el, say, toast } from "./dom.js";
import { bucketName, client } from "./firebase.js";
import { description, isVideo, promptOf } from "./gallery.js";
import { inWords, TASKS, when } from "./words.js";

interface Around {
  changed: (item: HistoryItem) => void;
  removed: (fileUid: string) => void;
  /** Whether the workers serve a task. */
  offers: (task: string) => boolean;
  /** Begin a new request with this picture. */
  use: (task: string, url: string, address: string, prompt: string) => void;
}

export class Viewer {
  private readonly dialog = byId<HTMLDialogElement>("viewer");
  private readonly stage = byId("viewer-stage");
  private readonly heart = byId<HTMLButtonElement>("viewer-favourite");
  private item: HistoryItem | null = null;
  private at = 0;

  constructor(private readonly around: Around) {
    byId("viewer-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => this.stage.replaceChildren()); // stops a playing clip
    this.dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && !(event.target instanceof HTMLVideoElement)) this.turn(this.at + step);
    });
    this.heart.addEventListener("click", () => void this.favour());
    byId("viewer-delete").addEventListener("click", () => void this.remove());
    byId("viewer-report").addEventListener("click", () => void this.report());
    byId("viewer-enlarge").addEventListener("click", () => this.use("upscale"));
    byId("viewer-again").addEventListener("click", () => this.use("img2img"));
  }

  open(item: HistoryItem): void {
    this.item = item;
    byId("viewer-prompt").textContent = promptOf(item) || (TASKS[item.taskType ?? ""] ?? "Picture");
    const clip = isVideo(item);
    byId("viewer-enlarge").hidden = clip || !this.around.offers("upscale");
    byId("viewer-again").hidden = clip || !this.around.offers("img2img");
    this.heart.setAttribute("aria-pressed", String(item.document.favorite === true));
    this.turn(0);
    this.dialog.showModal();
    byId("viewer-close").focus();
  }

  /** Clear the viewer when the user changes. */
  leave(): void {
    this.item = null;
    byId("viewer-prompt").textContent = byId("viewer-facts").textContent = "";
    byId("viewer-strip").replaceChildren();
    byId("viewer-save").removeAttribute("href");
    byId<HTMLFormElement>("reporter-form").reset();
    say("");
  }

  private get files(): GenerationFile[] {
    return this.item?.document.generation_data?.files ?? [];
  }

  /** Show the file at index `at`, if it exists. */
  private turn(at: number): void {
    const { item } = this;
    const file = this.files[at];
    if (!item || !file) return;
    this.at = at;
    const shown = item.thumbnails[at];
    this.stage.style.setProperty("--shape", String(file.width / file.height));
    const below = [blur(shown?.blurhash ?? null), shown?.url ? over(shown.url, "") : null];
    this.stage.replaceChildren(...below.filter((layer) => layer !== null), isVideo(item) ? this.clip(file) : this.picture(item, file));
    byId<HTMLAnchorElement>("viewer-save").href = file.url ?? "";
    const facts = [TASKS[item.taskType ?? ""], `${file.width} × ${file.height}`, when(item.createdAt)];
    byId("viewer-facts").textContent = facts.filter(Boolean).join(" · ");
    this.strip();
  }

  private picture(item: HistoryItem, file: GenerationFile): HTMLElement {
    const image = over(file.url ?? "", description(item));
    image.addEventListener("error", () => toast("The picture could not be loaded."), { once: true });
    return image;
  }

  private clip(file: GenerationFile): HTMLElement {
    const video = el("video", { controls: true, loop: true, playsinline: true, muted: true, src: file.url ?? "" });
    video.setAttribute("aria-label", this.item ? description(this.item) : "Clip");
    if (file.poster_url) video.poster = file.poster_url;
    video.muted = true;
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) video.autoplay = true;
    return video;
  }

  /** Show the thumbnails of the request's pictures. */
  private strip(): void {
    const place = byId("viewer-strip");
    const thumbnails = this.item?.thumbnails ?? [];
    place.hidden = thumbnails.length < 2;
    const hadFocus = place.contains(document.activeElement);
    place.replaceChildren(
      ...thumbnails.map(({ url, blurhash }, at) =>
        el(
          "button",
          {
            type: "button",
            class: "tile",
            "aria-label": `Picture ${at + 1} of ${thumbnails.length}`,
            "aria-current": at === this.at ? "true" : null,
            onclick: () => this.turn(at),
          },
          blur(blurhash),
          url ? over(url, "") : null,
        ),
      ),
    );
    if (hadFocus) (place.children[this.at] as HTMLElement | undefined)?.focus();
  }

  private async favour(): Promise<void> {
    const { item } = this;
    if (!item) return;
    const favorite = item.document.favorite !== true;
    const show = (on: boolean): void => {
      if (this.item?.fileUid === item.fileUid) this.heart.setAttribute("aria-pressed", String(on));
      item.document.favorite = on;
      this.around.changed(item);
    };
    show(favorite);
    try {
      await client.label(item.fileUid, { favorite });
    } catch (error) {
      show(!favorite);
      toast(inWords(error));
    }
  }

  private async remove(): Promise<void> {
    const { item } = this;
    if (!item || (await asked("confirm")) !== "yes") return;
    try {
      await client.remove(item.fileUid);
    } catch (error) {
      toast(inWords(error));
      return;
    }
    if (this.item?.fileUid === item.fileUid) this.dialog.close(); // another one may be open by now
    this.around.removed(item.fileUid);
    say("Deleted.");
  }

  private async report(): Promise<void> {
    const { item } = this;
    if (!item || (await asked("reporter")) !== "yes") return;
    const form = byId<HTMLFormElement>("reporter-form");
    const fields = new FormData(form);
    const note = String(fields.get("note")).trim();
    try {
      await client.report(item.fileUid, String(fields.get("reason")), note || undefined);
      form.reset();
      toast("Thank you. Somebody will look at it.");
    } catch (error) {
      toast(inWords(error));
    }
  }

  private use(task: string): void {
    const { item } = this;
    const file = this.files[this.at];
    if (!item || !file?.url || !file.storage_path) return;
    this.dialog.close();
    this.around.use(task, file.url, `gs://${bucketName}/${file.storage_path}`, promptOf(item));
  }
}
