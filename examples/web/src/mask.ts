// Lets the user mark a part of a photo by finger, pen or mouse, or with the arrow keys and the space bar.
// A mask is black, with white where the worker should repaint, and has the photo's aspect ratio.

import { byId } from "./dom.js";

const LONGEST = 1536; // a mask needs no more detail; the worker scales it to the picture
const STEP = 1 / 24; // how far an arrow key moves, as a share of the longer side

interface Point {
  x: number;
  y: number;
}

interface Stroke {
  width: number;
  points: Point[];
}

const dialog = (): HTMLDialogElement => byId<HTMLDialogElement>("masker");

/** Open the mask editor. Returns the mask, null for none, or undefined if the user went back without a change. */
export function editMask(
  url: string,
  photoWidth: number,
  photoHeight: number,
  before: HTMLCanvasElement | null,
): Promise<HTMLCanvasElement | null | undefined> {
  const scale = Math.min(1, LONGEST / Math.max(photoWidth, photoHeight));
  const width = Math.round(photoWidth * scale);
  const height = Math.round(photoHeight * scale);
  const board = byId<HTMLCanvasElement>("mask-board");
  board.width = width;
  board.height = height;
  const context = board.getContext("2d")!;
  const size = byId<HTMLInputElement>("mask-size");
  byId<HTMLImageElement>("mask-photo").src = url;
  byId("mask-frame").style.aspectRatio = `${width} / ${height}`;
  byId("mask-frame").style.setProperty("--shape", String(width / height));
  let earlier = before;
  let strokes: Stroke[] = [];
  let drawing: { pointer: number; stroke: Stroke } | null = null;
  let cursor: Point | null = null;

  const brush = (): number => (Number(size.value) / 100) * Math.max(width, height);

  function draw(onto: CanvasRenderingContext2D, colour: string): void {
    onto.lineCap = onto.lineJoin = "round";
    onto.strokeStyle = onto.fillStyle = colour;
    for (const stroke of strokes) {
      const [first, ...rest] = stroke.points;
      if (!first) continue;
      onto.lineWidth = stroke.width;
      onto.beginPath();
      onto.arc(first.x, first.y, stroke.width / 2, 0, 2 * Math.PI);
      onto.fill();
      onto.beginPath();
      onto.moveTo(first.x, first.y);
      for (const { x, y } of rest) onto.lineTo(x, y);
      onto.stroke();
    }
  }

  /** Draw the marks opaque: CSS makes the board half transparent, so that repeated strokes look the same as one. */
  function show(): void {
    context.clearRect(0, 0, width, height);
    if (earlier) {
      context.drawImage(earlier, 0, 0, width, height);
      const pixels = context.getImageData(0, 0, width, height);
      for (let at = 0; at < pixels.data.length; at += 4) {
        const marked = pixels.data[at]! > 127;
        pixels.data.set([88, 86, 214, marked ? 255 : 0], at);
      }
      context.putImageData(pixels, 0, 0);
    }
    draw(context, "rgb(88 86 214)");
    const ring = byId("mask-cursor");
    ring.hidden = cursor === null;
    if (cursor) {
      ring.style.left = `${(100 * cursor.x) / width}%`;
      ring.style.top = `${(100 * cursor.y) / height}%`;
      ring.style.width = `${(100 * brush()) / width}%`;
    }
    const nothing = strokes.length === 0 && !earlier;
    byId<HTMLButtonElement>("mask-undo").disabled = strokes.length === 0;
    byId<HTMLButtonElement>("mask-clear").disabled = nothing;
    byId<HTMLButtonElement>("mask-done").disabled = nothing;
  }

  function finished(): HTMLCanvasElement | null {
    if (strokes.length === 0 && !earlier) return null;
    const mask = document.createElement("canvas");
    mask.width = width;
    mask.height = height;
    const onto = mask.getContext("2d")!;
    onto.fillStyle = "black";
    onto.fillRect(0, 0, width, height);
    if (earlier) onto.drawImage(earlier, 0, 0, width, height);
    draw(onto, "white");
    return mask;
  }

  const at = (event: PointerEvent): Point => {
    const place = board.getBoundingClientRect();
    return { x: ((event.clientX - place.left) / place.width) * width, y: ((event.clientY - place.top) / place.height) * height };
  };

  function onKey(event: KeyboardEvent): void {
    const moves: Record<string, Point> = {
      ArrowLeft: { x: -1, y: 0 },
      ArrowRight: { x: 1, y: 0 },
      ArrowUp: { x: 0, y: -1 },
      ArrowDown: { x: 0, y: 1 },
    };
    const move = moves[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    cursor ??= { x: width / 2, y: height / 2 };
    if (move) {
      const step = STEP * Math.max(width, height);
      cursor = {
        x: Math.min(width, Math.max(0, cursor.x + move.x * step)),
        y: Math.min(height, Math.max(0, cursor.y + move.y * step)),
      };
    } else {
      strokes.push({ width: brush(), points: [cursor] });
    }
    show();
  }

  const listening = new AbortController();
  const { signal } = listening;
  board.addEventListener(
    "pointerdown",
    (event) => {
      if (drawing || event.button !== 0) return;
      event.preventDefault();
      board.focus({ preventScroll: true });
      board.setPointerCapture(event.pointerId);
      cursor = null;
      const stroke = { width: brush(), points: [at(event)] };
      strokes.push(stroke);
      drawing = { pointer: event.pointerId, stroke };
      show();
    },
    { signal },
  );
  board.addEventListener(
    "pointermove",
    (event) => {
      if (drawing?.pointer !== event.pointerId) return;
      // All movements since the last frame; otherwise quick lines become angular.
      const moves = event.getCoalescedEvents?.() ?? [];
      drawing.stroke.points.push(...(moves.length > 0 ? moves : [event]).map(at));
      show();
    },
    { signal },
  );
  const lift = (event: PointerEvent): void => {
    if (drawing?.pointer === event.pointerId) drawing = null;
  };
  board.addEventListener("pointerup", lift, { signal });
  board.addEventListener("pointercancel", lift, { signal });
  board.addEventListener("keydown", onKey, { signal });
  board.addEventListener("blur", () => ((cursor = null), show()), { signal });
  byId("mask-undo").addEventListener("click", () => (strokes.pop(), show()), { signal });
  byId("mask-clear").addEventListener("click", () => ((strokes = []), (earlier = null), show()), { signal });
  size.addEventListener("input", show, { signal });
  show();
  dialog().returnValue = "";
  dialog().showModal();
  board.focus();
  return new Promise((resolve) => {
    dialog().addEventListener(
      "close",
      () => {
        listening.abort();
        resolve(dialog().returnValue === "done" ? finished() : undefined);
      },
      { once: true },
    );
  });
}
