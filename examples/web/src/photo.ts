// The source photo of a request: chosen, dropped or taken from the history, and its mask.

import { byId, toast } from "./dom.js";
import { client } from "./firebase.js";
import { editMask } from "./mask.js";
import { inWords } from "./words.js";

/** An upload that runs once; after a failure, the next call tries again. */
class Sent {
  /** The `gs://` address, once it is uploaded. */
  address: string | null = null;
  private sending: Promise<string> | null = null;

  constructor(private readonly send: () => Promise<string>) {}

  whole(): Promise<string> {
    this.sending ??= this.send().then(
      (address) => (this.address = address),
      (error: unknown) => {
        this.sending = null;
        throw error;
      },
    );
    return this.sending;
  }
}

interface Source {
  /** The URL that the page shows. */
  url: string;
  file: File | null;
  sent: Sent;
  width: number;
  height: number;
  isShown: boolean;
  mask: HTMLCanvasElement | null;
  maskSent: Sent | null;
}

export class Photo {
  private source: Source | null = null;
  private turn = 0;
  private readonly area = byId("photo");
  private readonly input = byId<HTMLInputElement>("photo-file");
  private readonly image = byId<HTMLImageElement>("photo-image");
  private readonly veil = byId<HTMLCanvasElement>("photo-veil");
  private readonly markButton = byId<HTMLButtonElement>("photo-mark");

  /** `changed` is called for another photo, its upload, or none. */
  constructor(private readonly changed: () => void) {
    this.input.addEventListener("change", () => {
      const file = this.input.files?.[0];
      if (file) void this.take(file);
    });
    this.markButton.addEventListener("click", () => void this.mark());
    this.area.addEventListener("dragover", (event) => event.preventDefault());
    this.area.addEventListener("drop", (event) => {
      event.preventDefault();
      const file = event.dataTransfer?.files[0];
      if (file) void this.take(file);
    });
  }

  get isThere(): boolean {
    return this.source !== null;
  }

  /** Whether this browser can show the photo: most cannot show a phone's HEIC, which the worker reads. */
  get isShown(): boolean {
    return this.source?.isShown ?? false;
  }

  get isMarked(): boolean {
    return this.source?.mask != null;
  }

  /** Width divided by height; 1 if the browser cannot show the photo. */
  get shape(): number {
    return this.source ? this.source.width / this.source.height : 1;
  }

  /** The photo's `gs://` address, once it is uploaded. */
  get address(): string | null {
    return this.source?.sent.address ?? null;
  }

  get maskAddress(): string | null {
    return this.source?.maskSent?.address ?? null;
  }

  show(visible: boolean, markable: boolean): void {
    this.area.hidden = !visible;
    this.markButton.hidden = !markable || !this.isShown;
    this.veil.hidden = !markable;
  }

  async take(file: File): Promise<void> {
    await this.set({ url: URL.createObjectURL(file), file, sent: new Sent(() => client.upload(file)) });
  }

  /** Use a picture that is in the bucket already. */
  async takeOver(url: string, address: string): Promise<void> {
    await this.set({ url, file: null, sent: new Sent(async () => address) });
  }

  /** Finish the uploads. Returns the addresses for `image_url` and, with a mask, `mask_url`. */
  async upload(withMask: boolean): Promise<{ image_url: string; mask_url?: string }> {
    const { source } = this;
    if (!source) throw new TypeError("no photo was chosen");
    const [image_url, mask_url] = await Promise.all([source.sent.whole(), withMask ? source.maskSent?.whole() : undefined]);
    return { image_url, ...(mask_url && { mask_url }) };
  }

  /** Upload while the user writes the prompt: the price needs the photo, and a slow phone needs time. */
  private async begin(sent: Sent | null): Promise<void> {
    const { source } = this;
    if (!source || !sent) return;
    this.area.classList.add("sending");
    try {
      await sent.whole();
    } catch (error) {
      if (source === this.source) toast(inWords(error));
    }
    if (source !== this.source) return;
    this.area.classList.remove("sending");
    this.changed();
  }

  private async set(found: Pick<Source, "url" | "file" | "sent">): Promise<void> {
    const turn = (this.turn += 1);
    if (this.source?.file) URL.revokeObjectURL(this.source.url);
    this.image.src = found.url;
    const isShown = await this.image.decode().then(() => true, () => false);
    if (turn !== this.turn) {
      if (found.file) URL.revokeObjectURL(found.url);
      return; // another photo was chosen meanwhile, or the user has left
    }
    const [width, height] = isShown ? [this.image.naturalWidth, this.image.naturalHeight] : [1024, 1024];
    this.source = { ...found, width, height, isShown, mask: null, maskSent: null };
    this.area.classList.add("filled");
    byId("photo-name").textContent = found.file?.name ?? "From your pictures";
    this.image.hidden = !isShown;
    this.drawVeil();
    this.changed();
    void this.begin(this.source.sent);
  }

  /** Remove the photo. */
  clear(): void {
    this.turn += 1;
    if (this.source?.file) URL.revokeObjectURL(this.source.url);
    this.source = null;
    this.input.value = "";
    this.image.removeAttribute("src");
    this.image.hidden = true;
    this.area.classList.remove("filled", "sending");
    byId("photo-name").textContent = "Choose a photo";
    this.drawVeil();
    this.changed();
  }

  async mark(): Promise<void> {
    const { source } = this;
    if (!source) return;
    const mask = await editMask(source.url, source.width, source.height, source.mask);
    if (mask === undefined) return;
    source.mask = mask;
    source.maskSent = mask && new Sent(async () => client.upload(await asPng(mask)));
    this.drawVeil();
    this.changed();
    void this.begin(source.maskSent);
  }

  private drawVeil(): void {
    const mask = this.source?.mask ?? null;
    this.markButton.lastChild!.textContent = mask ? "Change the marked part" : "Mark the part to repaint";
    const { veil } = this;
    veil.width = mask?.width ?? 1;
    veil.height = mask?.height ?? 1;
    const context = veil.getContext("2d")!;
    if (!mask) return;
    context.drawImage(mask, 0, 0);
    // The mask's white becomes the veil; its black becomes transparent.
    const pixels = context.getImageData(0, 0, veil.width, veil.height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      pixels.data[at + 3] = pixels.data[at]! > 127 ? 150 : 0;
      pixels.data.set([88, 86, 214], at);
    }
    context.putImageData(pixels, 0, 0);
  }
}

function asPng(canvas: HTMLCanvasElement): Promise<Blob> {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the mask could not be written"))), "image/png");
  });
}
