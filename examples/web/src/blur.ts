// BlurHash -> a small canvas that its frame stretches: something to look at before any byte of a picture is here.

import { decode } from "blurhash";

const SIDE = 24;

export function blur(hash: string | null): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  canvas.className = "blur";
  canvas.setAttribute("aria-hidden", "true");
  if (hash) {
    try {
      const pixels = new ImageData(SIDE, SIDE);
      pixels.data.set(decode(hash, SIDE, SIDE));
      canvas.getContext("2d")?.putImageData(pixels, 0, 0);
    } catch {
      // A hash that is none: the frame's own colour stays.
    }
  }
  return canvas;
}

/** A picture over its blur: it shows itself once it is there. */
export function over(url: string, alt: string, { lazy = false } = {}): HTMLImageElement {
  const image = new Image();
  image.alt = alt;
  image.decoding = "async";
  if (lazy) image.loading = "lazy";
  image.className = "arriving";
  image.addEventListener("load", () => image.classList.remove("arriving"), { once: true });
  image.addEventListener("error", () => image.remove(), { once: true });
  image.src = url;
  return image;
}
