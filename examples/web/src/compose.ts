// The form for a request: task, source, shape and style. It offers what the workers serve.

import type { GenerationInput } from "@client";
import { byId, el, icon as symbol } from "./dom.js";
import { client, isLocal } from "./firebase.js";
import { Photo } from "./photo.js";
import { atMost, type Price } from "./price.js";
import { inWords, plural, SIZES, TASKS } from "./words.js";

interface Model {
  name: string;
  image_sizes?: Record<string, [number, number]>;
  aspect_ratios?: Record<string, [number, number]>;
}

interface Offered {
  tasks: string[];
  models: Record<string, Model[]>;
  styles: { name: string; tasks: string[] }[];
  upscale_factors: number[];
}

export interface Wanted {
  input: GenerationInput;
  /** The signed price, which limits the hold. */
  quote?: string | undefined;
  /** The price that the user has seen. */
  credits: number | null;
  prompt: string;
  /** Width divided by height of the result. */
  shape: number;
}

const NEEDS_PHOTO = new Set(["img2img", "inpaint", "upscale", "img2video"]);
const IMAGE_SIZES = ["square_hd", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"];
const VIDEO_RATIOS = ["16:9", "1:1", "9:16"];
const SECONDS = [1, 2, 5];

export class Compose {
  private readonly form = byId<HTMLFormElement>("compose");
  private readonly prompt = byId<HTMLTextAreaElement>("prompt");
  private readonly photo = new Photo(() => this.arrange());
  private offered: Offered | null = null;
  private turn = 0;
  private isBusy = false;

  constructor(
    private readonly price: Price,
    private readonly create: (wanted: Wanted) => void,
  ) {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.submit();
    });
    this.form.addEventListener("change", () => this.arrange());
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    const surprise = byId<HTMLButtonElement>("surprise");
    byId("demo-note").hidden = !isLocal;
    surprise.addEventListener("click", () => {
      this.prompt.value = somethingSimple();
      this.prompt.focus();
      this.arrange();
    });
  }

  /** Load the workers' capabilities and offer them. */
  async begin(): Promise<void> {
    const create = byId<HTMLButtonElement>("create");
    create.disabled = true;
    const { turn } = this;
    try {
      this.offer((await client.capabilities()) as unknown as Offered);
      byId("compose-error").textContent = "";
      byId("compose-retry").hidden = true;
      create.disabled = false;
    } catch (error) {
      if (turn !== this.turn) return;
      byId("compose-error").textContent = inWords(error);
      byId("compose-retry").hidden = false;
    }
  }

  /** Empty the form for another user, and let no pending request begin in their name. */
  leave(): void {
    this.turn += 1;
    this.form.reset();
    this.photo.clear();
    this.price.leave();
    this.busy(false);
    byId("compose-error").textContent = "";
    byId("compose-retry").hidden = true;
  }

  offers(task: string): boolean {
    return this.offered?.tasks.includes(task) ?? false;
  }

  /** Repeat a failed request, at its current price. */
  async again(wanted: Wanted): Promise<void> {
    const { turn } = this;
    this.price.forget(wanted.input);
    const offer = await this.price.offer(wanted.input);
    if (turn !== this.turn) return;
    const seen = wanted.credits;
    wanted.credits = offer?.credits ?? null;
    this.create({ ...wanted, quote: atMost(offer, seen)?.quote });
  }

  /** Begin a request with a picture of the history. */
  async from(task: string, url: string, address: string, prompt: string): Promise<void> {
    const choice = this.form.querySelector<HTMLInputElement>(`input[name=task][value=${task}]`);
    if (!choice) return;
    choice.checked = true;
    if (task !== "upscale") this.prompt.value = prompt;
    await this.photo.takeOver(url, address);
    this.arrange();
    this.form.scrollIntoView({ block: "start" });
    byId(task === "upscale" ? "create" : "prompt").focus();
  }

  private offer(offered: Offered): void {
    this.offered = offered;
    const tasks = Object.keys(TASKS).filter((task) => offered.tasks.includes(task));
    fill("tasks", "task", tasks.map((task) => ({ value: task, text: TASKS[task] ?? task, icon: task })));
    fill("counts", "count", [1, 2, 3, 4].map((count) => ({ value: String(count), text: String(count) })));
    fill("lengths", "length", SECONDS.map((length) => ({ value: String(length), text: `${length} s`, label: plural(length, "second") })));
    fill("factors", "factor", offered.upscale_factors.map((factor) => ({ value: String(factor), text: `${factor} ×` })));
    this.arrange();
  }

  /** Show the fields of the chosen task. */
  private arrange(): void {
    const { offered } = this;
    if (!offered) return;
    const task = this.chosen("task");
    const isVideo = task.endsWith("video");
    const withPhoto = NEEDS_PHOTO.has(task);
    this.photo.show(withPhoto, task === "inpaint");
    const sizes = withPhoto ? [] : isVideo ? VIDEO_RATIOS : IMAGE_SIZES;
    const known = isVideo ? this.model?.aspect_ratios : this.model?.image_sizes;
    const shapes = sizes.filter((size) => known?.[size]).map((size) => {
      const [text, label] = SIZES[size] ?? [size, size];
      return { value: size, text, label, shape: known![size]! };
    });
    fill("sizes", "size", shapes);
    const styles = offered.styles.filter((style) => style.tasks.includes(task));
    const looks = styles.length > 0 ? [{ value: "", text: "None" }, ...styles.map(({ name }) => ({ value: name, text: name }))] : [];
    fill("styles", "style", looks);
    byId("counts").hidden = isVideo || task === "upscale";
    byId("lengths").hidden = !isVideo;
    byId("factors").hidden = task !== "upscale";
    byId("strengths").hidden = task !== "img2img";
    this.prompt.required = task !== "upscale";
    byId("prompt-optional").hidden = task !== "upscale";
    this.showPrice();
  }

  private get model(): Model | undefined {
    return this.offered?.models[this.chosen("task")]?.[0];
  }

  private chosen(name: string): string {
    return this.form.querySelector<HTMLInputElement>(`input[name=${name}]:checked`)?.value ?? "";
  }

  private async submit(): Promise<void> {
    if (this.isBusy) return;
    const wrong = byId("compose-error");
    wrong.textContent = "";
    const task = this.chosen("task");
    if (NEEDS_PHOTO.has(task) && !this.photo.isThere) {
      wrong.textContent = "Choose a photo first.";
      byId("photo-file").focus();
      return;
    }
    if (task === "inpaint" && !this.photo.isShown) {
      wrong.textContent = "This browser cannot show that photo, so no part of it can be marked. Choose a JPEG or PNG.";
      byId("photo-file").focus();
      return;
    }
    if (task === "inpaint" && !this.photo.isMarked) {
      wrong.textContent = "Mark the part that is to be repainted.";
      byId("photo-mark").focus();
      return;
    }
    const { turn } = this;
    this.busy(true);
    try {
      // All is read before the upload, during which the user may change the form.
      const asked = this.input();
      const prompt = this.prompt.value.trim();
      const shape = this.shape();
      const { seen } = this.price;
      const pictures = NEEDS_PHOTO.has(task) ? await this.photo.upload(task === "inpaint") : {};
      if (turn !== this.turn) return;
      const input = { ...asked, ...pictures };
      const offer = await this.price.agreed(input, seen);
      if (turn !== this.turn) return;
      this.create({ input, quote: offer?.quote, credits: offer?.credits ?? null, prompt, shape });
    } catch (error) {
      if (turn === this.turn) wrong.textContent = inWords(error);
    } finally {
      if (turn === this.turn) this.busy(false);
    }
  }

  /** Mark the form as busy. Not with `disabled`, which would take the focus away. */
  private busy(is: boolean): void {
    this.isBusy = is;
    const button = byId("create");
    button.setAttribute("aria-disabled", String(is));
    button.textContent = is ? "One moment …" : "Create";
  }

  private shape(): number {
    const task = this.chosen("task");
    if (NEEDS_PHOTO.has(task)) return this.photo.shape;
    const sizes = task.endsWith("video") ? this.model?.aspect_ratios : this.model?.image_sizes;
    const [width, height] = sizes?.[this.chosen("size")] ?? [1, 1];
    return width / height;
  }

  /** The request, without its pictures. */
  private input(): GenerationInput {
    const task = this.chosen("task");
    const prompt = this.prompt.value.trim();
    const style = this.chosen("style");
    const size = this.chosen("size");
    const isVideo = task.endsWith("video");
    return {
      task_type: task,
      ...(prompt && { prompt }),
      ...(style && { style }),
      ...(size && { [isVideo ? "aspect_ratio" : "image_size"]: size }),
      ...(task === "upscale" ? { upscale_factor: Number(this.chosen("factor")) } : {}),
      ...(task === "img2img" ? { strength: Number(byId<HTMLInputElement>("strength").value) / 100 } : {}),
      ...(isVideo ? { duration: Number(this.chosen("length")) } : {}),
      ...(!isVideo && task !== "upscale" ? { num_images: Number(this.chosen("count")) } : {}),
      preview: true,
    };
  }

  /** Show the price of the request. Placeholders fill in a missing prompt and mask, which do not change a price. */
  private showPrice(): void {
    const task = this.chosen("task");
    const { address } = this.photo;
    const withPhoto = NEEDS_PHOTO.has(task);
    if (withPhoto && !address) return this.price.show(null);
    const input = this.input();
    const words = input.prompt === undefined && task !== "upscale" ? { prompt: "a picture" } : {};
    const source = withPhoto ? { image_url: address } : {};
    const mask = task === "inpaint" ? { mask_url: this.photo.maskAddress ?? address } : {};
    this.price.show({ ...input, ...words, ...source, ...mask } as GenerationInput);
  }
}

interface Choice {
  value: string;
  text: string;
  /** For screen readers, if the text says too little. */
  label?: string;
  icon?: string;
  shape?: [number, number];
}

/** Fill a group of radio buttons. Keeps the choice if it is still on offer, else chooses the first. */
function fill(id: string, name: string, choices: Choice[]): void {
  const group = byId<HTMLFieldSetElement>(id);
  group.hidden = choices.length === 0;
  const place = group.querySelector(".choices")!;
  const before = place.querySelector<HTMLInputElement>("input:checked")?.value;
  const now = JSON.stringify(choices);
  if (group.dataset["choices"] === now) return;
  group.dataset["choices"] = now;
  const kept = choices.some(({ value }) => value === before) ? before : choices[0]?.value;
  place.replaceChildren(
    ...choices.map(({ value, text, label, icon, shape }) =>
      el(
        "label",
        { class: "choice" },
        el("input", { type: "radio", name, value, checked: value === kept, "aria-label": label && (label.startsWith(text.split(" ")[0]!) ? label : `${label}, ${text}`) }),
        icon ? symbol(icon) : null,
        shape ? outline(shape) : null,
        el("span", {}, text),
      ),
    ),
  );
}


function outline([width, height]: [number, number]): HTMLElement {
  const side = 18 / Math.max(width, height);
  const made = el("i", { class: "outline", "aria-hidden": "true" });
  made.style.width = `${width * side}px`;
  made.style.height = `${height * side}px`;
  return made;
}

/** A prompt that the demo models understand. */
function somethingSimple(): string {
  const any = (words: string[]): string => words[Math.floor(Math.random() * words.length)]!;
  const colours = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"];
  const first = any(colours);
  const second = any([...colours, "black", "white"].filter((colour) => colour !== first));
  return `a ${any(["big", "small"])} ${first} ${any(["star", "circle", "square", "triangle"])} on ${second}`;
}
