// Made by `python -m tools.schema` from the schemas in schema/: change those, not this.
//
// What comes from the worker may have fields and words that these types do not know yet: `Open` keeps room for them.

/** A word out of a list that may grow. */
export type Open<Word extends string> = Word | (string & {});

/** A time as Firestore's SDKs have it. */
export interface Timestamp {
  toMillis(): number;
}

export type Acceleration = "none" | "regular" | "high";

export type AccelerationLevel = "regular" | "high";

export type AspectRatio = "21:9" | "16:9" | "3:2" | "4:3" | "5:4" | "1:1" | "4:5" | "3:4" | "2:3" | "9:16" | "9:21";

export type ControlType = "canny" | "depth" | "openpose" | "scribble" | "lineart" | "softedge" | "tile" | "segment" | "normal";

export type EndImage = "no" | "optional" | "required";

export type ErrorCode = "cancelled" | "deleted" | "disk_full" | "download_failed" | "duplicate_in_progress" | "forbidden" | "gpu_fault" | "idempotency_mismatch" | "internal" | "invalid_image" | "invalid_input" | "model_unavailable" | "out_of_memory" | "poison_job" | "result_too_large" | "storage_unavailable" | "superseded" | "timeout" | "unauthenticated" | "url_blocked" | "worker_lost";

export type GenerationStage = "queued" | "loading" | "generating" | "uploading";

export type GenerationStatus = "queued" | "processing" | "completed" | "failed";

export type ImageSizeName = "square_hd" | "square" | "portrait_4_3" | "portrait_16_9" | "landscape_4_3" | "landscape_16_9";

export type InpaintArea = "whole" | "masked";

export type ModelFamily = "sdxl" | "wan";

export type OutputFormat = "png" | "jpeg" | "webp";

export type QuantizedKind = "int8" | "fp8";

export type ReferenceType = "subject" | "style";

export type Resolution = "480p" | "720p";

export type Scheduler = "DDIM" | "PNDM" | "KLMS" | "K_EULER" | "K_EULER_ANCESTRAL" | "DPMSolverMultistep" | "DPMSolverSinglestep" | "DPMSolverMultistepKarras" | "DPMSolverSDEMultistepKarras" | "HEUN" | "UniPC" | "LCM" | "TCD" | "K_EULER_TRAILING";

export type StepCacheKind = "first_block" | "sea";

export type StorageKind = "firebase" | "base64";

export type TaskType = "text2img" | "img2img" | "inpaint" | "upscale" | "text2video" | "img2video";

export type VideoQuality = "low" | "medium" | "high" | "maximum";

/** A picture that controls the composition of the result. */
export interface ControlNet {
  type: ControlType;
  image_url: string;
  preprocess?: boolean | null;
  conditioning_scale?: number | null;
  start_percentage?: number | null;
  end_percentage?: number | null;
}

/** Low-rank weights that are added to the model's own. */
export interface Lora {
  path: string;
  scale?: number | null;
  weight_name?: string | null;
}

/** A picture whose subject or style the result takes on. */
export interface IpAdapter {
  image_url: string;
  scale?: number | null;
  type?: ReferenceType | null;
}

/** Images from a picture and a prompt. */
export interface Img2ImgRequest {
  prompt: string;
  negative_prompt?: string | null;
  prompt_weighting?: boolean | null;
  style?: string | null;
  model?: string | null;
  seed?: number | null;
  num_inference_steps?: number | null;
  acceleration?: Acceleration | null;
  user_id?: string | null;
  file_uid?: string | null;
  use_cloud_storage?: boolean | null;
  preview?: boolean | null;
  id_token?: string | null;
  output_format?: OutputFormat | null;
  output_quality?: number | null;
  upscale_factor?: number | null;
  upscale_creativity?: number | null;
  width?: number | null;
  height?: number | null;
  image_size?: ImageSizeName | null;
  aspect_ratio?: AspectRatio | null;
  num_images?: number | null;
  guidance_scale?: number | null;
  scheduler?: Scheduler | null;
  loras?: Lora[] | null;
  controlnets?: ControlNet[] | null;
  ip_adapters?: IpAdapter[] | null;
  high_noise_frac?: number | null;
  refiner_inference_steps?: number | null;
  task_type: "img2img";
  image_url: string;
  strength?: number | null;
}

/** A clip that starts from a picture, and may end with one. */
export interface Img2VideoRequest {
  prompt: string;
  negative_prompt?: string | null;
  prompt_weighting?: boolean | null;
  style?: string | null;
  model?: string | null;
  seed?: number | null;
  num_inference_steps?: number | null;
  acceleration?: Acceleration | null;
  user_id?: string | null;
  file_uid?: string | null;
  use_cloud_storage?: boolean | null;
  preview?: boolean | null;
  id_token?: string | null;
  video_width?: number | null;
  video_height?: number | null;
  aspect_ratio?: AspectRatio | null;
  resolution?: Resolution | null;
  duration?: number | null;
  num_frames?: number | null;
  fps?: number | null;
  video_guidance_scale?: number | null;
  flow_shift?: number | null;
  video_quality?: VideoQuality | null;
  loras?: Lora[] | null;
  high_noise_loras?: Lora[] | null;
  low_noise_loras?: Lora[] | null;
  task_type: "img2video";
  image_url: string;
  end_image_url?: string | null;
}

/** How many pixels the canvas grows on each side. */
export interface Outpaint {
  left?: number | null;
  right?: number | null;
  up?: number | null;
  down?: number | null;
}

/** A part of a picture, drawn again: white in the mask is repainted, grey in proportion. */
export interface InpaintRequest {
  prompt: string;
  negative_prompt?: string | null;
  prompt_weighting?: boolean | null;
  style?: string | null;
  model?: string | null;
  seed?: number | null;
  num_inference_steps?: number | null;
  acceleration?: Acceleration | null;
  user_id?: string | null;
  file_uid?: string | null;
  use_cloud_storage?: boolean | null;
  preview?: boolean | null;
  id_token?: string | null;
  output_format?: OutputFormat | null;
  output_quality?: number | null;
  upscale_factor?: number | null;
  upscale_creativity?: number | null;
  width?: number | null;
  height?: number | null;
  image_size?: ImageSizeName | null;
  aspect_ratio?: AspectRatio | null;
  num_images?: number | null;
  guidance_scale?: number | null;
  scheduler?: Scheduler | null;
  loras?: Lora[] | null;
  controlnets?: ControlNet[] | null;
  ip_adapters?: IpAdapter[] | null;
  high_noise_frac?: number | null;
  refiner_inference_steps?: number | null;
  task_type: "inpaint";
  image_url: string;
  outpaint?: Outpaint | null;
  mask_url?: string | null;
  mask_blur?: number | null;
  inpaint_area?: InpaintArea | null;
  strength?: number | null;
}

/** Images from a prompt. */
export interface Text2ImgRequest {
  prompt: string;
  negative_prompt?: string | null;
  prompt_weighting?: boolean | null;
  style?: string | null;
  model?: string | null;
  seed?: number | null;
  num_inference_steps?: number | null;
  acceleration?: Acceleration | null;
  user_id?: string | null;
  file_uid?: string | null;
  use_cloud_storage?: boolean | null;
  preview?: boolean | null;
  id_token?: string | null;
  output_format?: OutputFormat | null;
  output_quality?: number | null;
  upscale_factor?: number | null;
  upscale_creativity?: number | null;
  width?: number | null;
  height?: number | null;
  image_size?: ImageSizeName | null;
  aspect_ratio?: AspectRatio | null;
  num_images?: number | null;
  guidance_scale?: number | null;
  scheduler?: Scheduler | null;
  loras?: Lora[] | null;
  controlnets?: ControlNet[] | null;
  ip_adapters?: IpAdapter[] | null;
  high_noise_frac?: number | null;
  refiner_inference_steps?: number | null;
  task_type?: "text2img";
}

/** A clip from a prompt. */
export interface Text2VideoRequest {
  prompt: string;
  negative_prompt?: string | null;
  prompt_weighting?: boolean | null;
  style?: string | null;
  model?: string | null;
  seed?: number | null;
  num_inference_steps?: number | null;
  acceleration?: Acceleration | null;
  user_id?: string | null;
  file_uid?: string | null;
  use_cloud_storage?: boolean | null;
  preview?: boolean | null;
  id_token?: string | null;
  video_width?: number | null;
  video_height?: number | null;
  aspect_ratio?: AspectRatio | null;
  resolution?: Resolution | null;
  duration?: number | null;
  num_frames?: number | null;
  fps?: number | null;
  video_guidance_scale?: number | null;
  flow_shift?: number | null;
  video_quality?: VideoQuality | null;
  loras?: Lora[] | null;
  high_noise_loras?: Lora[] | null;
  low_noise_loras?: Lora[] | null;
  task_type: "text2video";
}

/** A picture, enlarged. */
export interface UpscaleRequest {
  prompt?: string | null;
  negative_prompt?: string | null;
  prompt_weighting?: boolean | null;
  style?: string | null;
  model?: string | null;
  seed?: number | null;
  num_inference_steps?: number | null;
  acceleration?: Acceleration | null;
  user_id?: string | null;
  file_uid?: string | null;
  use_cloud_storage?: boolean | null;
  preview?: boolean | null;
  id_token?: string | null;
  output_format?: OutputFormat | null;
  output_quality?: number | null;
  upscale_factor: number;
  upscale_creativity?: number | null;
  task_type: "upscale";
  image_url: string;
}

/** Widths of the outpainted borders around the client's picture, in pixels of the output. */
export interface Borders {
  left?: number;
  right?: number;
  up?: number;
  down?: number;
}

/** One picture that says where things are, as the request has it, without the picture. */
export interface ControlParams {
  type: Open<ControlType>;
  preprocess?: boolean;
  conditioning_scale?: number;
  start_percentage?: number;
  end_percentage?: number;
}

/**
 * The first of two passes: the whole schedule at about the native size. What it made is enlarged
 * and finished.
 */
export interface Draft {
  width: number;
  height: number;
  strength: number;
}

/** The part of the output that the model draws, if that is not the whole output at its own size. */
export interface Drawn {
  width: number;
  height: number;
  box: number[];
}

/** What a job has used. */
export interface GenerationUsage {
  gpu_seconds: number;
  /** The price, which does not depend on the card. */
  units: number;
}

/** The answer of a job that has none. */
export interface GenerationFailure {
  /** `error_code: message`, in one sentence. */
  error: string;
  error_code: Open<ErrorCode>;
  /** Whether the same request may succeed when it is sent again. */
  retryable: boolean;
  task_type: Open<TaskType> | null;
  file_uid: string | null;
  user_id: string | null;
  usage?: GenerationUsage;
  /** For RunPod: the worker is replaced. */
  refresh_worker?: boolean;
}

/** One file of a result. */
export interface GenerationFile {
  /** null: it went inline, as the others that may be. */
  url: string | null;
  storage_path: string | null;
  content_type: string;
  bytes: number;
  width: number;
  /** Both in pixels. */
  height: number;
  seed: number;
  thumbnail_url: string | null;
  thumbnail_path: string | null;
  /** Colours to show until the thumbnail is here: https://blurha.sh. */
  blurhash: string | null;
  /** Of a clip: its thumbnail. */
  poster_url?: string | null;
  poster_path?: string | null;
  /** What the content safety check said, where there is one. */
  nsfw?: boolean;
}

/** A LoRA by its public name, and by how much it counts. */
export interface LoraParams {
  name: string;
  scale: number;
}

/** How a picture beside the prompt is used. */
export interface ReferenceParams {
  type: Open<ReferenceType>;
  scale: number;
}

/** How a finished picture is enlarged, and its details drawn anew where that is wanted. */
export interface Upscale {
  factor: number;
  width: number;
  height: number;
  upscaler: string;
  creativity?: number;
  tile?: number[] | null;
}

/** Which denoising steps of a clip are not computed in full. */
export interface StepCache {
  kind: Open<StepCacheKind>;
  threshold: number;
}

/** What really ran; what did not count is not there. */
export interface GenerationParams {
  negative_prompt_of?: string;
  prompt_weighting?: boolean;
  style?: string;
  loras?: LoraParams[];
  acceleration?: Open<AccelerationLevel>;
  quantize?: Open<QuantizedKind>;
  width: number;
  height: number;
  num_inference_steps?: number;
  guidance_scale?: number;
  scheduler?: Open<Scheduler>;
  prediction_type?: string;
  timestep_spacing?: string;
  original_inference_steps?: number;
  guidance_rescale?: number;
  micro_conditioning?: number[];
  strength?: number;
  high_noise_frac?: number;
  refiner_inference_steps?: number;
  draft?: Draft;
  mask_blur?: number;
  inpaint_area?: Open<InpaintArea>;
  outpaint?: Borders;
  drawn?: Drawn;
  controlnets?: ControlParams[];
  ip_adapters?: ReferenceParams[];
  upscale?: Upscale;
  num_frames?: number;
  fps?: number;
  flow_shift?: number;
  guidance_scale_2?: number;
  high_noise_loras?: LoraParams[];
  low_noise_loras?: LoraParams[];
  video_quality?: Open<VideoQuality>;
  step_cache?: StepCache;
}

/** A clip in numbers. */
export interface VideoInfo {
  frames: number;
  width: number;
  height: number;
  fps: number;
  duration_seconds: number;
}

/** The answer of a job that has a result; inline, its URLs are `data:` URIs. */
export interface GenerationResponse {
  images?: string[];
  image_url?: string | null;
  videos?: string[];
  video_url?: string | null;
  video_info?: VideoInfo;
  seed?: number;
  seeds?: number[];
  model?: string;
  params?: GenerationParams;
  storage: Open<StorageKind>;
  timings?: Record<string, number>;
  usage?: GenerationUsage;
  warnings?: string[];
  files?: GenerationFile[];
  task_type: Open<TaskType>;
  user_id?: string;
  file_uid?: string;
}

/** A finished result, as the document keeps it: of images or of a clip. */
export interface GenerationData {
  /** Download URLs; empty where the result went inline. */
  images?: string[];
  /** The first of them. */
  image_url?: string | null;
  videos?: string[];
  video_url?: string | null;
  video_info?: VideoInfo;
  seed?: number;
  seeds?: number[];
  model?: string;
  params?: GenerationParams;
  storage: Open<StorageKind>;
  /** Seconds of each stage. */
  timings?: Record<string, number>;
  usage?: GenerationUsage;
  /** What did not go as asked. */
  warnings?: string[];
  files?: GenerationFile[];
}

/**
 * What a document keeps of the request: all of its fields but `id_token`, with placeholders for
 * inline pictures.
 */
export interface RequestData {
  task_type?: Open<TaskType>;
  prompt?: string;
  negative_prompt?: string;
  model?: string | null;
  style?: string | null;
  seed?: number | null;
  /** True: there was no room for the rest. */
  left_out?: boolean;
  /** The other fields of the request. */
  [field: string]: unknown;
}

/** A job's progress, as RunPod and the document receive it. */
export interface GenerationProgress {
  stage: Open<GenerationStage>;
  step: number;
  /** Both within the stage. */
  total_steps: number;
  /** Of the whole job; never decreases within an attempt. */
  percent: number;
  /** Seconds left; null: not known. */
  eta_seconds: number | null;
  /** Only in the document, and only if requested: a data URI of a WebP of at most 8 KB. */
  preview?: string;
}

/** Why a document is `failed`. */
export interface GenerationError {
  code: Open<ErrorCode>;
  message: string;
  retryable: boolean;
}

/** `generations/{user_id}/files/{file_uid}`; times are the server's. */
export interface GenerationDocument<Time = Timestamp> {
  status: Open<GenerationStatus>;
  user_id?: string;
  file_uid?: string;
  job_id?: string;
  worker_id?: string;
  /** Of the worker's log and traces. */
  trace_id?: string;
  attempt?: number;
  request_data?: RequestData;
  created_at?: Time | null;
  updated_at?: Time | null;
  completed_at?: Time | null;
  progress?: GenerationProgress;
  heartbeat_at?: Time | null;
  /** Past it the job is dead. */
  expires_at?: Time | null;
  /** From when on it may be deleted, where the operator keeps nothing for ever. */
  delete_at?: Time | null;
  usage?: GenerationUsage;
  generation_data?: GenerationData;
  error?: GenerationError;
  /** The worker's own. */
  claim?: Record<string, unknown>;
  /** The app's, as what follows. */
  cancel_requested?: boolean;
  favorite?: boolean;
  hidden?: boolean;
  labels?: string[];
}

/** What a request would cost. */
export interface Quote {
  /** On any card. */
  units: number;
  /** On this worker's; null: not known yet. */
  estimated_seconds: number | null;
  params: GenerationParams;
}

/** One of the operator's styles. */
export interface ServedStyle {
  name: string;
  tasks: Array<Open<TaskType>>;
}

/** One of the operator's LoRAs, as far as an app may show it. */
export interface ServedLora {
  name: string;
  family: Open<ModelFamily> | null;
  trigger_words: string[];
  licence: string | null;
}

/** The names that the fields of sizes take. */
export interface SizePresets {
  image_size: string[];
  aspect_ratio: string[];
  resolution: string[];
}

/** What this worker takes at most. */
export interface Limits {
  prompt_characters: number;
  image_pixels: number;
  upscaled_pixels: number;
  job_cost: number;
  input_image_bytes: number;
  input_image_pixels: number;
  result_bytes: number;
  job_timeout_seconds: number;
}

/** Of the contract, the worker and the fingerprint of requests. */
export interface Versions {
  contract: number;
  worker: string;
  fingerprint: string;
}

/** What a worker serves. */
export interface Capabilities {
  tasks: Array<Open<TaskType>>;
  /** For each task, the default first. */
  models: Record<string, ServedModel[]>;
  styles: ServedStyle[];
  loras: ServedLora[];
  controlnet_types: string[];
  upscale_factors: number[];
  size_presets: SizePresets;
  schedulers: Array<Open<Scheduler>>;
  output_formats: Array<Open<OutputFormat>>;
  /** Whether documents show what is being made. */
  preview: boolean;
  limits: Limits;
  versions: Versions;
}

/**
 * A model that serves a task; the fields of images and those of clips are the other's
 * `NotRequired`.
 */
export interface ServedModel {
  name: string;
  width: number;
  height: number;
  size_multiple: number;
  num_inference_steps: number;
  guidance_scale: number;
  few_steps: boolean;
  accelerations: Array<Open<AccelerationLevel>>;
  /** Width and height of each. */
  aspect_ratios: Record<string, number[]>;
  /** null: its own. */
  scheduler?: string | null;
  schedulers?: Array<Open<Scheduler>>;
  has_refiner?: boolean;
  has_ip_adapter?: boolean;
  makes_depth?: boolean;
  /** null: Lanczos. */
  upscaler?: string | null;
  image_sizes?: Record<string, number[]>;
  num_frames?: number;
  fps?: number;
  end_image?: Open<EndImage>;
}

/**
 * A job: what the worker takes. `task_type` says which it is, and may be left out of a `text2img`
 * alone.
 */
export type GenerationRequest = Img2ImgRequest | Img2VideoRequest | InpaintRequest | Text2ImgRequest | Text2VideoRequest | UpscaleRequest;

export type WorkerResponse = GenerationResponse | GenerationFailure;
