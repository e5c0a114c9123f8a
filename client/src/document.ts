// What the client reads of a document in generations/{uid}/files/{fileUid}. docs/api.md has all of it.

/** Firestore's own type, of either SDK. */
export interface Timestamp {
  toMillis(): number;
}

/** One file of a result. */
export interface GenerationFile {
  url: string | null;
  storage_path: string | null;
  content_type: string;
  bytes: number;
  width: number;
  height: number;
  seed: number;
  nsfw?: boolean;
  thumbnail_url?: string | null;
  thumbnail_path?: string | null;
  blurhash?: string | null;
  poster_url?: string | null;
  poster_path?: string | null;
}

/** A result: what the response says, without `task_type` and the ids. With `storage: "base64"` the bucket was away. */
export interface GenerationData {
  storage: "firebase" | "base64";
  images?: string[];
  image_url?: string | null;
  videos?: string[];
  video_url?: string | null;
  video_info?: { frames: number; width: number; height: number; fps: number; duration_seconds: number };
  seed: number;
  seeds?: number[];
  model: string;
  params: Record<string, unknown>;
  timings: Record<string, number>;
  usage: { gpu_seconds: number; units: number };
  warnings: string[];
  files: GenerationFile[];
}

export interface Progress {
  stage: string;
  percent?: number | null;
  step?: number | null;
  total_steps?: number | null;
  eta_seconds?: number | null;
  preview?: string | null;
}

export interface GenerationDocument {
  /** A later version may know more of them. */
  status: "queued" | "processing" | "completed" | "failed" | (string & {});
  created_at?: Timestamp | null;
  updated_at?: Timestamp | null;
  completed_at?: Timestamp | null;
  expires_at?: Timestamp | null;
  request_data?: Record<string, unknown>;
  generation_data?: GenerationData;
  progress?: Progress;
  usage?: { gpu_seconds: number; units: number };
  error?: { code: string; message: string; retryable: boolean };
  job_id?: string;
  attempt?: number;
  cancel_requested?: boolean;
  favorite?: boolean;
  hidden?: boolean;
  labels?: string[];
  [field: string]: unknown;
}

/** A request, as docs/api.md has it; who asks and where the result goes is the backend's to say. */
export interface GenerationInput {
  task_type?: "text2img" | "img2img" | "inpaint" | "upscale" | "text2video" | "img2video" | (string & {});
  prompt?: string;
  [field: string]: unknown;
}
