// Draws a BlurHash on a small canvas that CSS stretches to its frame, to show before the picture has loaded.

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
      // An invalid hash: the frame keeps its own colour.
    }
  }
  return canvas;
}

/** A picture over its blur, visible once it has loaded. */
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
