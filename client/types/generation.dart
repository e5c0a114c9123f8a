// Made by `python -m tools.schema` from the schemas in schema/: change those, not this.
//
// Read a document with `GenerationDocument.of(snapshot.data()!, (it) => (it as Timestamp).toDate())`; what an SDK has
// for a time is its own. Words may be some that this version does not know: a `switch` over them has a default.

/// A word out of a list that may grow.
abstract class Word {
  const Word(this.value);

  final String value;

  @override
  bool operator ==(Object other) => other is Word && other.runtimeType == runtimeType && other.value == value;

  @override
  int get hashCode => value.hashCode;

  @override
  String toString() => value;
}

/// A job: what the worker takes.
abstract class GenerationRequest {
  TaskType get taskType;

  /// What a callable function or a JSON encoder takes; what is null is not given.
  Map<String, Object> toMap();
}

class Acceleration extends Word {
  const Acceleration(super.value);

  static const none = Acceleration('none');
  static const regular = Acceleration('regular');
  static const high = Acceleration('high');
}

class AccelerationLevel extends Word {
  const AccelerationLevel(super.value);

  static const regular = AccelerationLevel('regular');
  static const high = AccelerationLevel('high');
}

class AspectRatio extends Word {
  const AspectRatio(super.value);

  static const x21To9 = AspectRatio('21:9');
  static const x16To9 = AspectRatio('16:9');
  static const x3To2 = AspectRatio('3:2');
  static const x4To3 = AspectRatio('4:3');
  static const x5To4 = AspectRatio('5:4');
  static const x1To1 = AspectRatio('1:1');
  static const x4To5 = AspectRatio('4:5');
  static const x3To4 = AspectRatio('3:4');
  static const x2To3 = AspectRatio('2:3');
  static const x9To16 = AspectRatio('9:16');
  static const x9To21 = AspectRatio('9:21');
}

class ControlType extends Word {
  const ControlType(super.value);

  static const canny = ControlType('canny');
  static const depth = ControlType('depth');
  static const openpose = ControlType('openpose');
  static const scribble = ControlType('scribble');
  static const lineart = ControlType('lineart');
  static const softedge = ControlType('softedge');
  static const tile = ControlType('tile');
  static const segment = ControlType('segment');
  static const normal = ControlType('normal');
}

class EndImage extends Word {
  const EndImage(super.value);

  static const no = EndImage('no');
  static const optional = EndImage('optional');
  static const required = EndImage('required');
}

class ErrorCode extends Word {
  const ErrorCode(super.value);

  static const cancelled = ErrorCode('cancelled');
  static const deleted = ErrorCode('deleted');
  static const diskFull = ErrorCode('disk_full');
  static const downloadFailed = ErrorCode('download_failed');
  static const duplicateInProgress = ErrorCode('duplicate_in_progress');
  static const forbidden = ErrorCode('forbidden');
  static const gpuFault = ErrorCode('gpu_fault');
  static const idempotencyMismatch = ErrorCode('idempotency_mismatch');
  static const internal = ErrorCode('internal');
  static const invalidImage = ErrorCode('invalid_image');
  static const invalidInput = ErrorCode('invalid_input');
  static const modelUnavailable = ErrorCode('model_unavailable');
  static const outOfMemory = ErrorCode('out_of_memory');
  static const poisonJob = ErrorCode('poison_job');
  static const resultTooLarge = ErrorCode('result_too_large');
  static const storageUnavailable = ErrorCode('storage_unavailable');
  static const superseded = ErrorCode('superseded');
  static const timeout = ErrorCode('timeout');
  static const unauthenticated = ErrorCode('unauthenticated');
  static const urlBlocked = ErrorCode('url_blocked');
  static const workerLost = ErrorCode('worker_lost');
}

class GenerationStage extends Word {
  const GenerationStage(super.value);

  static const queued = GenerationStage('queued');
  static const loading = GenerationStage('loading');
  static const generating = GenerationStage('generating');
  static const uploading = GenerationStage('uploading');
}

class GenerationStatus extends Word {
  const GenerationStatus(super.value);

  static const queued = GenerationStatus('queued');
  static const processing = GenerationStatus('processing');
  static const completed = GenerationStatus('completed');
  static const failed = GenerationStatus('failed');
}

class ImageSizeName extends Word {
  const ImageSizeName(super.value);

  static const squareHd = ImageSizeName('square_hd');
  static const square = ImageSizeName('square');
  static const portrait43 = ImageSizeName('portrait_4_3');
  static const portrait169 = ImageSizeName('portrait_16_9');
  static const landscape43 = ImageSizeName('landscape_4_3');
  static const landscape169 = ImageSizeName('landscape_16_9');
}

class InpaintArea extends Word {
  const InpaintArea(super.value);

  static const whole = InpaintArea('whole');
  static const masked = InpaintArea('masked');
}

class ModelFamily extends Word {
  const ModelFamily(super.value);

  static const sdxl = ModelFamily('sdxl');
  static const wan = ModelFamily('wan');
}

class OutputFormat extends Word {
  const OutputFormat(super.value);

  static const png = OutputFormat('png');
  static const jpeg = OutputFormat('jpeg');
  static const webp = OutputFormat('webp');
}

class QuantizedKind extends Word {
  const QuantizedKind(super.value);

  static const int8 = QuantizedKind('int8');
  static const fp8 = QuantizedKind('fp8');
}

class ReferenceType extends Word {
  const ReferenceType(super.value);

  static const subject = ReferenceType('subject');
  static const style = ReferenceType('style');
}

class Resolution extends Word {
  const Resolution(super.value);

  static const x480p = Resolution('480p');
  static const x720p = Resolution('720p');
}

class Scheduler extends Word {
  const Scheduler(super.value);

  static const ddim = Scheduler('DDIM');
  static const pndm = Scheduler('PNDM');
  static const klms = Scheduler('KLMS');
  static const kEuler = Scheduler('K_EULER');
  static const kEulerAncestral = Scheduler('K_EULER_ANCESTRAL');
  static const dPMSolverMultistep = Scheduler('DPMSolverMultistep');
  static const dPMSolverSinglestep = Scheduler('DPMSolverSinglestep');
  static const dPMSolverMultistepKarras = Scheduler('DPMSolverMultistepKarras');
  static const dPMSolverSDEMultistepKarras = Scheduler('DPMSolverSDEMultistepKarras');
  static const heun = Scheduler('HEUN');
  static const uniPC = Scheduler('UniPC');
  static const lcm = Scheduler('LCM');
  static const tcd = Scheduler('TCD');
  static const kEulerTrailing = Scheduler('K_EULER_TRAILING');
}

class StepCacheKind extends Word {
  const StepCacheKind(super.value);

  static const firstBlock = StepCacheKind('first_block');
  static const sea = StepCacheKind('sea');
}

class StorageKind extends Word {
  const StorageKind(super.value);

  static const firebase = StorageKind('firebase');
  static const base64 = StorageKind('base64');
}

class TaskType extends Word {
  const TaskType(super.value);

  static const text2img = TaskType('text2img');
  static const img2img = TaskType('img2img');
  static const inpaint = TaskType('inpaint');
  static const upscale = TaskType('upscale');
  static const text2video = TaskType('text2video');
  static const img2video = TaskType('img2video');
}

class VideoQuality extends Word {
  const VideoQuality(super.value);

  static const low = VideoQuality('low');
  static const medium = VideoQuality('medium');
  static const high = VideoQuality('high');
  static const maximum = VideoQuality('maximum');
}

/// A picture that controls the composition of the result.
class ControlNet {
  const ControlNet({
    required this.type,
    required this.imageUrl,
    this.preprocess,
    this.conditioningScale,
    this.startPercentage,
    this.endPercentage,
  });

  final ControlType type;

  final String imageUrl;

  final bool? preprocess;

  final double? conditioningScale;

  final double? startPercentage;

  final double? endPercentage;

  Map<String, Object> toMap() => {
        'type': type.value,
        'image_url': imageUrl,
        if (preprocess != null) 'preprocess': preprocess!,
        if (conditioningScale != null) 'conditioning_scale': conditioningScale!,
        if (startPercentage != null) 'start_percentage': startPercentage!,
        if (endPercentage != null) 'end_percentage': endPercentage!,
      };
}

/// Low-rank weights that are added to the model's own.
class Lora {
  const Lora({
    required this.path,
    this.scale,
    this.weightName,
  });

  final String path;

  final double? scale;

  final String? weightName;

  Map<String, Object> toMap() => {
        'path': path,
        if (scale != null) 'scale': scale!,
        if (weightName != null) 'weight_name': weightName!,
      };
}

/// A picture whose subject or style the result takes on.
class IpAdapter {
  const IpAdapter({
    required this.imageUrl,
    this.scale,
    this.type,
  });

  final String imageUrl;

  final double? scale;

  final ReferenceType? type;

  Map<String, Object> toMap() => {
        'image_url': imageUrl,
        if (scale != null) 'scale': scale!,
        if (type != null) 'type': type!.value,
      };
}

/// Images from a picture and a prompt.
class Img2ImgRequest implements GenerationRequest {
  const Img2ImgRequest({
    required this.prompt,
    this.negativePrompt,
    this.promptWeighting,
    this.style,
    this.model,
    this.seed,
    this.numInferenceSteps,
    this.acceleration,
    this.userId,
    this.fileUid,
    this.useCloudStorage,
    this.preview,
    this.idToken,
    this.outputFormat,
    this.outputQuality,
    this.upscaleFactor,
    this.upscaleCreativity,
    this.width,
    this.height,
    this.imageSize,
    this.aspectRatio,
    this.numImages,
    this.guidanceScale,
    this.scheduler,
    this.loras,
    this.controlnets,
    this.ipAdapters,
    this.highNoiseFrac,
    this.refinerInferenceSteps,
    required this.imageUrl,
    this.strength,
  });

  final String prompt;

  final String? negativePrompt;

  final bool? promptWeighting;

  final String? style;

  final String? model;

  final int? seed;

  final int? numInferenceSteps;

  final Acceleration? acceleration;

  final String? userId;

  final String? fileUid;

  final bool? useCloudStorage;

  final bool? preview;

  final String? idToken;

  final OutputFormat? outputFormat;

  final int? outputQuality;

  final int? upscaleFactor;

  final double? upscaleCreativity;

  final int? width;

  final int? height;

  final ImageSizeName? imageSize;

  final AspectRatio? aspectRatio;

  final int? numImages;

  final double? guidanceScale;

  final Scheduler? scheduler;

  final List<Lora>? loras;

  final List<ControlNet>? controlnets;

  final List<IpAdapter>? ipAdapters;

  final double? highNoiseFrac;

  final int? refinerInferenceSteps;

  final String imageUrl;

  final double? strength;

  @override
  TaskType get taskType => TaskType.img2img;

  @override
  Map<String, Object> toMap() => {
        'prompt': prompt,
        if (negativePrompt != null) 'negative_prompt': negativePrompt!,
        if (promptWeighting != null) 'prompt_weighting': promptWeighting!,
        if (style != null) 'style': style!,
        if (model != null) 'model': model!,
        if (seed != null) 'seed': seed!,
        if (numInferenceSteps != null) 'num_inference_steps': numInferenceSteps!,
        if (acceleration != null) 'acceleration': acceleration!.value,
        if (userId != null) 'user_id': userId!,
        if (fileUid != null) 'file_uid': fileUid!,
        if (useCloudStorage != null) 'use_cloud_storage': useCloudStorage!,
        if (preview != null) 'preview': preview!,
        if (idToken != null) 'id_token': idToken!,
        if (outputFormat != null) 'output_format': outputFormat!.value,
        if (outputQuality != null) 'output_quality': outputQuality!,
        if (upscaleFactor != null) 'upscale_factor': upscaleFactor!,
        if (upscaleCreativity != null) 'upscale_creativity': upscaleCreativity!,
        if (width != null) 'width': width!,
        if (height != null) 'height': height!,
        if (imageSize != null) 'image_size': imageSize!.value,
        if (aspectRatio != null) 'aspect_ratio': aspectRatio!.value,
        if (numImages != null) 'num_images': numImages!,
        if (guidanceScale != null) 'guidance_scale': guidanceScale!,
        if (scheduler != null) 'scheduler': scheduler!.value,
        if (loras != null) 'loras': loras!.map((one) => one.toMap()).toList(),
        if (controlnets != null) 'controlnets': controlnets!.map((one) => one.toMap()).toList(),
        if (ipAdapters != null) 'ip_adapters': ipAdapters!.map((one) => one.toMap()).toList(),
        if (highNoiseFrac != null) 'high_noise_frac': highNoiseFrac!,
        if (refinerInferenceSteps != null) 'refiner_inference_steps': refinerInferenceSteps!,
        'task_type': taskType.value,
        'image_url': imageUrl,
        if (strength != null) 'strength': strength!,
      };
}

/// A clip that starts from a picture, and may end with one.
class Img2VideoRequest implements GenerationRequest {
  const Img2VideoRequest({
    required this.prompt,
    this.negativePrompt,
    this.promptWeighting,
    this.style,
    this.model,
    this.seed,
    this.numInferenceSteps,
    this.acceleration,
    this.userId,
    this.fileUid,
    this.useCloudStorage,
    this.preview,
    this.idToken,
    this.videoWidth,
    this.videoHeight,
    this.aspectRatio,
    this.resolution,
    this.duration,
    this.numFrames,
    this.fps,
    this.videoGuidanceScale,
    this.flowShift,
    this.videoQuality,
    this.loras,
    this.highNoiseLoras,
    this.lowNoiseLoras,
    required this.imageUrl,
    this.endImageUrl,
  });

  final String prompt;

  final String? negativePrompt;

  final bool? promptWeighting;

  final String? style;

  final String? model;

  final int? seed;

  final int? numInferenceSteps;

  final Acceleration? acceleration;

  final String? userId;

  final String? fileUid;

  final bool? useCloudStorage;

  final bool? preview;

  final String? idToken;

  final int? videoWidth;

  final int? videoHeight;

  final AspectRatio? aspectRatio;

  final Resolution? resolution;

  final double? duration;

  final int? numFrames;

  final int? fps;

  final double? videoGuidanceScale;

  final double? flowShift;

  final VideoQuality? videoQuality;

  final List<Lora>? loras;

  final List<Lora>? highNoiseLoras;

  final List<Lora>? lowNoiseLoras;

  final String imageUrl;

  final String? endImageUrl;

  @override
  TaskType get taskType => TaskType.img2video;

  @override
  Map<String, Object> toMap() => {
        'prompt': prompt,
        if (negativePrompt != null) 'negative_prompt': negativePrompt!,
        if (promptWeighting != null) 'prompt_weighting': promptWeighting!,
        if (style != null) 'style': style!,
        if (model != null) 'model': model!,
        if (seed != null) 'seed': seed!,
        if (numInferenceSteps != null) 'num_inference_steps': numInferenceSteps!,
        if (acceleration != null) 'acceleration': acceleration!.value,
        if (userId != null) 'user_id': userId!,
        if (fileUid != null) 'file_uid': fileUid!,
        if (useCloudStorage != null) 'use_cloud_storage': useCloudStorage!,
        if (preview != null) 'preview': preview!,
        if (idToken != null) 'id_token': idToken!,
        if (videoWidth != null) 'video_width': videoWidth!,
        if (videoHeight != null) 'video_height': videoHeight!,
        if (aspectRatio != null) 'aspect_ratio': aspectRatio!.value,
        if (resolution != null) 'resolution': resolution!.value,
        if (duration != null) 'duration': duration!,
        if (numFrames != null) 'num_frames': numFrames!,
        if (fps != null) 'fps': fps!,
        if (videoGuidanceScale != null) 'video_guidance_scale': videoGuidanceScale!,
        if (flowShift != null) 'flow_shift': flowShift!,
        if (videoQuality != null) 'video_quality': videoQuality!.value,
        if (loras != null) 'loras': loras!.map((one) => one.toMap()).toList(),
        if (highNoiseLoras != null) 'high_noise_loras': highNoiseLoras!.map((one) => one.toMap()).toList(),
        if (lowNoiseLoras != null) 'low_noise_loras': lowNoiseLoras!.map((one) => one.toMap()).toList(),
        'task_type': taskType.value,
        'image_url': imageUrl,
        if (endImageUrl != null) 'end_image_url': endImageUrl!,
      };
}

/// How many pixels the canvas grows on each side.
class Outpaint {
  const Outpaint({
    this.left,
    this.right,
    this.up,
    this.down,
  });

  final int? left;

  final int? right;

  final int? up;

  final int? down;

  Map<String, Object> toMap() => {
        if (left != null) 'left': left!,
        if (right != null) 'right': right!,
        if (up != null) 'up': up!,
        if (down != null) 'down': down!,
      };
}

/// A part of a picture, drawn again: white in the mask is repainted, grey in proportion.
class InpaintRequest implements GenerationRequest {
  const InpaintRequest({
    required this.prompt,
    this.negativePrompt,
    this.promptWeighting,
    this.style,
    this.model,
    this.seed,
    this.numInferenceSteps,
    this.acceleration,
    this.userId,
    this.fileUid,
    this.useCloudStorage,
    this.preview,
    this.idToken,
    this.outputFormat,
    this.outputQuality,
    this.upscaleFactor,
    this.upscaleCreativity,
    this.width,
    this.height,
    this.imageSize,
    this.aspectRatio,
    this.numImages,
    this.guidanceScale,
    this.scheduler,
    this.loras,
    this.controlnets,
    this.ipAdapters,
    this.highNoiseFrac,
    this.refinerInferenceSteps,
    required this.imageUrl,
    this.outpaint,
    this.maskUrl,
    this.maskBlur,
    this.inpaintArea,
    this.strength,
  });

  final String prompt;

  final String? negativePrompt;

  final bool? promptWeighting;

  final String? style;

  final String? model;

  final int? seed;

  final int? numInferenceSteps;

  final Acceleration? acceleration;

  final String? userId;

  final String? fileUid;

  final bool? useCloudStorage;

  final bool? preview;

  final String? idToken;

  final OutputFormat? outputFormat;

  final int? outputQuality;

  final int? upscaleFactor;

  final double? upscaleCreativity;

  final int? width;

  final int? height;

  final ImageSizeName? imageSize;

  final AspectRatio? aspectRatio;

  final int? numImages;

  final double? guidanceScale;

  final Scheduler? scheduler;

  final List<Lora>? loras;

  final List<ControlNet>? controlnets;

  final List<IpAdapter>? ipAdapters;

  final double? highNoiseFrac;

  final int? refinerInferenceSteps;

  final String imageUrl;

  final Outpaint? outpaint;

  final String? maskUrl;

  final double? maskBlur;

  final InpaintArea? inpaintArea;

  final double? strength;

  @override
  TaskType get taskType => TaskType.inpaint;

  @override
  Map<String, Object> toMap() => {
        'prompt': prompt,
        if (negativePrompt != null) 'negative_prompt': negativePrompt!,
        if (promptWeighting != null) 'prompt_weighting': promptWeighting!,
        if (style != null) 'style': style!,
        if (model != null) 'model': model!,
        if (seed != null) 'seed': seed!,
        if (numInferenceSteps != null) 'num_inference_steps': numInferenceSteps!,
        if (acceleration != null) 'acceleration': acceleration!.value,
        if (userId != null) 'user_id': userId!,
        if (fileUid != null) 'file_uid': fileUid!,
        if (useCloudStorage != null) 'use_cloud_storage': useCloudStorage!,
        if (preview != null) 'preview': preview!,
        if (idToken != null) 'id_token': idToken!,
        if (outputFormat != null) 'output_format': outputFormat!.value,
        if (outputQuality != null) 'output_quality': outputQuality!,
        if (upscaleFactor != null) 'upscale_factor': upscaleFactor!,
        if (upscaleCreativity != null) 'upscale_creativity': upscaleCreativity!,
        if (width != null) 'width': width!,
        if (height != null) 'height': height!,
        if (imageSize != null) 'image_size': imageSize!.value,
        if (aspectRatio != null) 'aspect_ratio': aspectRatio!.value,
        if (numImages != null) 'num_images': numImages!,
        if (guidanceScale != null) 'guidance_scale': guidanceScale!,
        if (scheduler != null) 'scheduler': scheduler!.value,
        if (loras != null) 'loras': loras!.map((one) => one.toMap()).toList(),
        if (controlnets != null) 'controlnets': controlnets!.map((one) => one.toMap()).toList(),
        if (ipAdapters != null) 'ip_adapters': ipAdapters!.map((one) => one.toMap()).toList(),
        if (highNoiseFrac != null) 'high_noise_frac': highNoiseFrac!,
        if (refinerInferenceSteps != null) 'refiner_inference_steps': refinerInferenceSteps!,
        'task_type': taskType.value,
        'image_url': imageUrl,
        if (outpaint != null) 'outpaint': outpaint!.toMap(),
        if (maskUrl != null) 'mask_url': maskUrl!,
        if (maskBlur != null) 'mask_blur': maskBlur!,
        if (inpaintArea != null) 'inpaint_area': inpaintArea!.value,
        if (strength != null) 'strength': strength!,
      };
}

/// Images from a prompt.
class Text2ImgRequest implements GenerationRequest {
  const Text2ImgRequest({
    required this.prompt,
    this.negativePrompt,
    this.promptWeighting,
    this.style,
    this.model,
    this.seed,
    this.numInferenceSteps,
    this.acceleration,
    this.userId,
    this.fileUid,
    this.useCloudStorage,
    this.preview,
    this.idToken,
    this.outputFormat,
    this.outputQuality,
    this.upscaleFactor,
    this.upscaleCreativity,
    this.width,
    this.height,
    this.imageSize,
    this.aspectRatio,
    this.numImages,
    this.guidanceScale,
    this.scheduler,
    this.loras,
    this.controlnets,
    this.ipAdapters,
    this.highNoiseFrac,
    this.refinerInferenceSteps,
  });

  final String prompt;

  final String? negativePrompt;

  final bool? promptWeighting;

  final String? style;

  final String? model;

  final int? seed;

  final int? numInferenceSteps;

  final Acceleration? acceleration;

  final String? userId;

  final String? fileUid;

  final bool? useCloudStorage;

  final bool? preview;

  final String? idToken;

  final OutputFormat? outputFormat;

  final int? outputQuality;

  final int? upscaleFactor;

  final double? upscaleCreativity;

  final int? width;

  final int? height;

  final ImageSizeName? imageSize;

  final AspectRatio? aspectRatio;

  final int? numImages;

  final double? guidanceScale;

  final Scheduler? scheduler;

  final List<Lora>? loras;

  final List<ControlNet>? controlnets;

  final List<IpAdapter>? ipAdapters;

  final double? highNoiseFrac;

  final int? refinerInferenceSteps;

  @override
  TaskType get taskType => TaskType.text2img;

  @override
  Map<String, Object> toMap() => {
        'prompt': prompt,
        if (negativePrompt != null) 'negative_prompt': negativePrompt!,
        if (promptWeighting != null) 'prompt_weighting': promptWeighting!,
        if (style != null) 'style': style!,
        if (model != null) 'model': model!,
        if (seed != null) 'seed': seed!,
        if (numInferenceSteps != null) 'num_inference_steps': numInferenceSteps!,
        if (acceleration != null) 'acceleration': acceleration!.value,
        if (userId != null) 'user_id': userId!,
        if (fileUid != null) 'file_uid': fileUid!,
        if (useCloudStorage != null) 'use_cloud_storage': useCloudStorage!,
        if (preview != null) 'preview': preview!,
        if (idToken != null) 'id_token': idToken!,
        if (outputFormat != null) 'output_format': outputFormat!.value,
        if (outputQuality != null) 'output_quality': outputQuality!,
        if (upscaleFactor != null) 'upscale_factor': upscaleFactor!,
        if (upscaleCreativity != null) 'upscale_creativity': upscaleCreativity!,
        if (width != null) 'width': width!,
        if (height != null) 'height': height!,
        if (imageSize != null) 'image_size': imageSize!.value,
        if (aspectRatio != null) 'aspect_ratio': aspectRatio!.value,
        if (numImages != null) 'num_images': numImages!,
        if (guidanceScale != null) 'guidance_scale': guidanceScale!,
        if (scheduler != null) 'scheduler': scheduler!.value,
        if (loras != null) 'loras': loras!.map((one) => one.toMap()).toList(),
        if (controlnets != null) 'controlnets': controlnets!.map((one) => one.toMap()).toList(),
        if (ipAdapters != null) 'ip_adapters': ipAdapters!.map((one) => one.toMap()).toList(),
        if (highNoiseFrac != null) 'high_noise_frac': highNoiseFrac!,
        if (refinerInferenceSteps != null) 'refiner_inference_steps': refinerInferenceSteps!,
        'task_type': taskType.value,
      };
}

/// A clip from a prompt.
class Text2VideoRequest implements GenerationRequest {
  const Text2VideoRequest({
    required this.prompt,
    this.negativePrompt,
    this.promptWeighting,
    this.style,
    this.model,
    this.seed,
    this.numInferenceSteps,
    this.acceleration,
    this.userId,
    this.fileUid,
    this.useCloudStorage,
    this.preview,
    this.idToken,
    this.videoWidth,
    this.videoHeight,
    this.aspectRatio,
    this.resolution,
    this.duration,
    this.numFrames,
    this.fps,
    this.videoGuidanceScale,
    this.flowShift,
    this.videoQuality,
    this.loras,
    this.highNoiseLoras,
    this.lowNoiseLoras,
  });

  final String prompt;

  final String? negativePrompt;

  final bool? promptWeighting;

  final String? style;

  final String? model;

  final int? seed;

  final int? numInferenceSteps;

  final Acceleration? acceleration;

  final String? userId;

  final String? fileUid;

  final bool? useCloudStorage;

  final bool? preview;

  final String? idToken;

  final int? videoWidth;

  final int? videoHeight;

  final AspectRatio? aspectRatio;

  final Resolution? resolution;

  final double? duration;

  final int? numFrames;

  final int? fps;

  final double? videoGuidanceScale;

  final double? flowShift;

  final VideoQuality? videoQuality;

  final List<Lora>? loras;

  final List<Lora>? highNoiseLoras;

  final List<Lora>? lowNoiseLoras;

  @override
  TaskType get taskType => TaskType.text2video;

  @override
  Map<String, Object> toMap() => {
        'prompt': prompt,
        if (negativePrompt != null) 'negative_prompt': negativePrompt!,
        if (promptWeighting != null) 'prompt_weighting': promptWeighting!,
        if (style != null) 'style': style!,
        if (model != null) 'model': model!,
        if (seed != null) 'seed': seed!,
        if (numInferenceSteps != null) 'num_inference_steps': numInferenceSteps!,
        if (acceleration != null) 'acceleration': acceleration!.value,
        if (userId != null) 'user_id': userId!,
        if (fileUid != null) 'file_uid': fileUid!,
        if (useCloudStorage != null) 'use_cloud_storage': useCloudStorage!,
        if (preview != null) 'preview': preview!,
        if (idToken != null) 'id_token': idToken!,
        if (videoWidth != null) 'video_width': videoWidth!,
        if (videoHeight != null) 'video_height': videoHeight!,
        if (aspectRatio != null) 'aspect_ratio': aspectRatio!.value,
        if (resolution != null) 'resolution': resolution!.value,
        if (duration != null) 'duration': duration!,
        if (numFrames != null) 'num_frames': numFrames!,
        if (fps != null) 'fps': fps!,
        if (videoGuidanceScale != null) 'video_guidance_scale': videoGuidanceScale!,
        if (flowShift != null) 'flow_shift': flowShift!,
        if (videoQuality != null) 'video_quality': videoQuality!.value,
        if (loras != null) 'loras': loras!.map((one) => one.toMap()).toList(),
        if (highNoiseLoras != null) 'high_noise_loras': highNoiseLoras!.map((one) => one.toMap()).toList(),
        if (lowNoiseLoras != null) 'low_noise_loras': lowNoiseLoras!.map((one) => one.toMap()).toList(),
        'task_type': taskType.value,
      };
}

/// A picture, enlarged.
class UpscaleRequest implements GenerationRequest {
  const UpscaleRequest({
    this.prompt,
    this.negativePrompt,
    this.promptWeighting,
    this.style,
    this.model,
    this.seed,
    this.numInferenceSteps,
    this.acceleration,
    this.userId,
    this.fileUid,
    this.useCloudStorage,
    this.preview,
    this.idToken,
    this.outputFormat,
    this.outputQuality,
    required this.upscaleFactor,
    this.upscaleCreativity,
    required this.imageUrl,
  });

  final String? prompt;

  final String? negativePrompt;

  final bool? promptWeighting;

  final String? style;

  final String? model;

  final int? seed;

  final int? numInferenceSteps;

  final Acceleration? acceleration;

  final String? userId;

  final String? fileUid;

  final bool? useCloudStorage;

  final bool? preview;

  final String? idToken;

  final OutputFormat? outputFormat;

  final int? outputQuality;

  final int upscaleFactor;

  final double? upscaleCreativity;

  final String imageUrl;

  @override
  TaskType get taskType => TaskType.upscale;

  @override
  Map<String, Object> toMap() => {
        if (prompt != null) 'prompt': prompt!,
        if (negativePrompt != null) 'negative_prompt': negativePrompt!,
        if (promptWeighting != null) 'prompt_weighting': promptWeighting!,
        if (style != null) 'style': style!,
        if (model != null) 'model': model!,
        if (seed != null) 'seed': seed!,
        if (numInferenceSteps != null) 'num_inference_steps': numInferenceSteps!,
        if (acceleration != null) 'acceleration': acceleration!.value,
        if (userId != null) 'user_id': userId!,
        if (fileUid != null) 'file_uid': fileUid!,
        if (useCloudStorage != null) 'use_cloud_storage': useCloudStorage!,
        if (preview != null) 'preview': preview!,
        if (idToken != null) 'id_token': idToken!,
        if (outputFormat != null) 'output_format': outputFormat!.value,
        if (outputQuality != null) 'output_quality': outputQuality!,
        'upscale_factor': upscaleFactor,
        if (upscaleCreativity != null) 'upscale_creativity': upscaleCreativity!,
        'task_type': taskType.value,
        'image_url': imageUrl,
      };
}

/// Widths of the outpainted borders around the client's picture, in pixels of the output.
class Borders {
  const Borders({
    this.left,
    this.right,
    this.up,
    this.down,
  });

  factory Borders.of(Map<Object?, Object?> map) => Borders(
        left: map['left'] == null ? null : (map['left']! as num).toInt(),
        right: map['right'] == null ? null : (map['right']! as num).toInt(),
        up: map['up'] == null ? null : (map['up']! as num).toInt(),
        down: map['down'] == null ? null : (map['down']! as num).toInt(),
      );

  final int? left;

  final int? right;

  final int? up;

  final int? down;
}

/// One picture that says where things are, as the request has it, without the picture.
class ControlParams {
  const ControlParams({
    required this.type,
    this.preprocess,
    this.conditioningScale,
    this.startPercentage,
    this.endPercentage,
  });

  factory ControlParams.of(Map<Object?, Object?> map) => ControlParams(
        type: ControlType(map['type']! as String),
        preprocess: map['preprocess'] == null ? null : map['preprocess']! as bool,
        conditioningScale: map['conditioning_scale'] == null ? null : (map['conditioning_scale']! as num).toDouble(),
        startPercentage: map['start_percentage'] == null ? null : (map['start_percentage']! as num).toDouble(),
        endPercentage: map['end_percentage'] == null ? null : (map['end_percentage']! as num).toDouble(),
      );

  final ControlType type;

  final bool? preprocess;

  final double? conditioningScale;

  final double? startPercentage;

  final double? endPercentage;
}

/// The first of two passes: the whole schedule at about the native size. What it made is enlarged and finished.
class Draft {
  const Draft({
    required this.width,
    required this.height,
    required this.strength,
  });

  factory Draft.of(Map<Object?, Object?> map) => Draft(
        width: (map['width']! as num).toInt(),
        height: (map['height']! as num).toInt(),
        strength: (map['strength']! as num).toDouble(),
      );

  final int width;

  final int height;

  final double strength;
}

/// The part of the output that the model draws, if that is not the whole output at its own size.
class Drawn {
  const Drawn({
    required this.width,
    required this.height,
    required this.box,
  });

  factory Drawn.of(Map<Object?, Object?> map) => Drawn(
        width: (map['width']! as num).toInt(),
        height: (map['height']! as num).toInt(),
        box: (map['box']! as List<Object?>).map((one) => (one! as num).toInt()).toList(),
      );

  final int width;

  final int height;

  final List<int> box;
}

/// What a job has used.
class GenerationUsage {
  const GenerationUsage({
    required this.gpuSeconds,
    required this.units,
  });

  factory GenerationUsage.of(Map<Object?, Object?> map) => GenerationUsage(
        gpuSeconds: (map['gpu_seconds']! as num).toDouble(),
        units: (map['units']! as num).toInt(),
      );

  final double gpuSeconds;

  /// The price, which does not depend on the card.
  final int units;
}

/// The answer of a job that has none.
class GenerationFailure {
  const GenerationFailure({
    required this.error,
    required this.errorCode,
    required this.retryable,
    this.taskType,
    this.fileUid,
    this.userId,
    this.usage,
    this.refreshWorker,
  });

  factory GenerationFailure.of(Map<Object?, Object?> map) => GenerationFailure(
        error: map['error']! as String,
        errorCode: ErrorCode(map['error_code']! as String),
        retryable: map['retryable']! as bool,
        taskType: map['task_type'] == null ? null : TaskType(map['task_type']! as String),
        fileUid: map['file_uid'] == null ? null : map['file_uid']! as String,
        userId: map['user_id'] == null ? null : map['user_id']! as String,
        usage: map['usage'] == null ? null : GenerationUsage.of(map['usage']! as Map<Object?, Object?>),
        refreshWorker: map['refresh_worker'] == null ? null : map['refresh_worker']! as bool,
      );

  /// `error_code: message`, in one sentence.
  final String error;

  final ErrorCode errorCode;

  /// Whether the same request may succeed when it is sent again.
  final bool retryable;

  final TaskType? taskType;

  final String? fileUid;

  final String? userId;

  final GenerationUsage? usage;

  /// For RunPod: the worker is replaced.
  final bool? refreshWorker;
}

/// One file of a result.
class GenerationFile {
  const GenerationFile({
    this.url,
    this.storagePath,
    required this.contentType,
    required this.bytes,
    required this.width,
    required this.height,
    required this.seed,
    this.thumbnailUrl,
    this.thumbnailPath,
    this.blurhash,
    this.posterUrl,
    this.posterPath,
    this.nsfw,
  });

  factory GenerationFile.of(Map<Object?, Object?> map) => GenerationFile(
        url: map['url'] == null ? null : map['url']! as String,
        storagePath: map['storage_path'] == null ? null : map['storage_path']! as String,
        contentType: map['content_type']! as String,
        bytes: (map['bytes']! as num).toInt(),
        width: (map['width']! as num).toInt(),
        height: (map['height']! as num).toInt(),
        seed: (map['seed']! as num).toInt(),
        thumbnailUrl: map['thumbnail_url'] == null ? null : map['thumbnail_url']! as String,
        thumbnailPath: map['thumbnail_path'] == null ? null : map['thumbnail_path']! as String,
        blurhash: map['blurhash'] == null ? null : map['blurhash']! as String,
        posterUrl: map['poster_url'] == null ? null : map['poster_url']! as String,
        posterPath: map['poster_path'] == null ? null : map['poster_path']! as String,
        nsfw: map['nsfw'] == null ? null : map['nsfw']! as bool,
      );

  /// null: it went inline, as the others that may be.
  final String? url;

  final String? storagePath;

  final String contentType;

  final int bytes;

  final int width;

  /// Both in pixels.
  final int height;

  final int seed;

  final String? thumbnailUrl;

  final String? thumbnailPath;

  /// Colours to show until the thumbnail is here: https://blurha.sh.
  final String? blurhash;

  /// Of a clip: its thumbnail.
  final String? posterUrl;

  final String? posterPath;

  /// What the content safety check said, where there is one.
  final bool? nsfw;
}

/// A LoRA by its public name, and by how much it counts.
class LoraParams {
  const LoraParams({
    required this.name,
    required this.scale,
  });

  factory LoraParams.of(Map<Object?, Object?> map) => LoraParams(
        name: map['name']! as String,
        scale: (map['scale']! as num).toDouble(),
      );

  final String name;

  final double scale;
}

/// How a picture beside the prompt is used.
class ReferenceParams {
  const ReferenceParams({
    required this.type,
    required this.scale,
  });

  factory ReferenceParams.of(Map<Object?, Object?> map) => ReferenceParams(
        type: ReferenceType(map['type']! as String),
        scale: (map['scale']! as num).toDouble(),
      );

  final ReferenceType type;

  final double scale;
}

/// How a finished picture is enlarged, and its details drawn anew where that is wanted.
class Upscale {
  const Upscale({
    required this.factor,
    required this.width,
    required this.height,
    required this.upscaler,
    this.creativity,
    this.tile,
  });

  factory Upscale.of(Map<Object?, Object?> map) => Upscale(
        factor: (map['factor']! as num).toInt(),
        width: (map['width']! as num).toInt(),
        height: (map['height']! as num).toInt(),
        upscaler: map['upscaler']! as String,
        creativity: map['creativity'] == null ? null : (map['creativity']! as num).toDouble(),
        tile: map['tile'] == null ? null : (map['tile']! as List<Object?>).map((one) => (one! as num).toInt()).toList(),
      );

  final int factor;

  final int width;

  final int height;

  final String upscaler;

  final double? creativity;

  final List<int>? tile;
}

/// Which denoising steps of a clip are not computed in full.
class StepCache {
  const StepCache({
    required this.kind,
    required this.threshold,
  });

  factory StepCache.of(Map<Object?, Object?> map) => StepCache(
        kind: StepCacheKind(map['kind']! as String),
        threshold: (map['threshold']! as num).toDouble(),
      );

  final StepCacheKind kind;

  final double threshold;
}

/// What really ran; what did not count is not there.
class GenerationParams {
  const GenerationParams({
    this.negativePromptOf,
    this.promptWeighting,
    this.style,
    this.loras,
    this.acceleration,
    this.quantize,
    required this.width,
    required this.height,
    this.numInferenceSteps,
    this.guidanceScale,
    this.scheduler,
    this.predictionType,
    this.timestepSpacing,
    this.originalInferenceSteps,
    this.guidanceRescale,
    this.microConditioning,
    this.strength,
    this.highNoiseFrac,
    this.refinerInferenceSteps,
    this.draft,
    this.maskBlur,
    this.inpaintArea,
    this.outpaint,
    this.drawn,
    this.controlnets,
    this.ipAdapters,
    this.upscale,
    this.numFrames,
    this.fps,
    this.flowShift,
    this.guidanceScale2,
    this.highNoiseLoras,
    this.lowNoiseLoras,
    this.videoQuality,
    this.stepCache,
  });

  factory GenerationParams.of(Map<Object?, Object?> map) => GenerationParams(
        negativePromptOf: map['negative_prompt_of'] == null ? null : map['negative_prompt_of']! as String,
        promptWeighting: map['prompt_weighting'] == null ? null : map['prompt_weighting']! as bool,
        style: map['style'] == null ? null : map['style']! as String,
        loras: map['loras'] == null ? null : (map['loras']! as List<Object?>).map((one) => LoraParams.of(one! as Map<Object?, Object?>)).toList(),
        acceleration: map['acceleration'] == null ? null : AccelerationLevel(map['acceleration']! as String),
        quantize: map['quantize'] == null ? null : QuantizedKind(map['quantize']! as String),
        width: (map['width']! as num).toInt(),
        height: (map['height']! as num).toInt(),
        numInferenceSteps: map['num_inference_steps'] == null ? null : (map['num_inference_steps']! as num).toInt(),
        guidanceScale: map['guidance_scale'] == null ? null : (map['guidance_scale']! as num).toDouble(),
        scheduler: map['scheduler'] == null ? null : Scheduler(map['scheduler']! as String),
        predictionType: map['prediction_type'] == null ? null : map['prediction_type']! as String,
        timestepSpacing: map['timestep_spacing'] == null ? null : map['timestep_spacing']! as String,
        originalInferenceSteps: map['original_inference_steps'] == null ? null : (map['original_inference_steps']! as num).toInt(),
        guidanceRescale: map['guidance_rescale'] == null ? null : (map['guidance_rescale']! as num).toDouble(),
        microConditioning: map['micro_conditioning'] == null ? null : (map['micro_conditioning']! as List<Object?>).map((one) => (one! as num).toInt()).toList(),
        strength: map['strength'] == null ? null : (map['strength']! as num).toDouble(),
        highNoiseFrac: map['high_noise_frac'] == null ? null : (map['high_noise_frac']! as num).toDouble(),
        refinerInferenceSteps: map['refiner_inference_steps'] == null ? null : (map['refiner_inference_steps']! as num).toInt(),
        draft: map['draft'] == null ? null : Draft.of(map['draft']! as Map<Object?, Object?>),
        maskBlur: map['mask_blur'] == null ? null : (map['mask_blur']! as num).toDouble(),
        inpaintArea: map['inpaint_area'] == null ? null : InpaintArea(map['inpaint_area']! as String),
        outpaint: map['outpaint'] == null ? null : Borders.of(map['outpaint']! as Map<Object?, Object?>),
        drawn: map['drawn'] == null ? null : Drawn.of(map['drawn']! as Map<Object?, Object?>),
        controlnets: map['controlnets'] == null ? null : (map['controlnets']! as List<Object?>).map((one) => ControlParams.of(one! as Map<Object?, Object?>)).toList(),
        ipAdapters: map['ip_adapters'] == null ? null : (map['ip_adapters']! as List<Object?>).map((one) => ReferenceParams.of(one! as Map<Object?, Object?>)).toList(),
        upscale: map['upscale'] == null ? null : Upscale.of(map['upscale']! as Map<Object?, Object?>),
        numFrames: map['num_frames'] == null ? null : (map['num_frames']! as num).toInt(),
        fps: map['fps'] == null ? null : (map['fps']! as num).toInt(),
        flowShift: map['flow_shift'] == null ? null : (map['flow_shift']! as num).toDouble(),
        guidanceScale2: map['guidance_scale_2'] == null ? null : (map['guidance_scale_2']! as num).toDouble(),
        highNoiseLoras: map['high_noise_loras'] == null ? null : (map['high_noise_loras']! as List<Object?>).map((one) => LoraParams.of(one! as Map<Object?, Object?>)).toList(),
        lowNoiseLoras: map['low_noise_loras'] == null ? null : (map['low_noise_loras']! as List<Object?>).map((one) => LoraParams.of(one! as Map<Object?, Object?>)).toList(),
        videoQuality: map['video_quality'] == null ? null : VideoQuality(map['video_quality']! as String),
        stepCache: map['step_cache'] == null ? null : StepCache.of(map['step_cache']! as Map<Object?, Object?>),
      );

  final String? negativePromptOf;

  final bool? promptWeighting;

  final String? style;

  final List<LoraParams>? loras;

  final AccelerationLevel? acceleration;

  final QuantizedKind? quantize;

  final int width;

  final int height;

  final int? numInferenceSteps;

  final double? guidanceScale;

  final Scheduler? scheduler;

  final String? predictionType;

  final String? timestepSpacing;

  final int? originalInferenceSteps;

  final double? guidanceRescale;

  final List<int>? microConditioning;

  final double? strength;

  final double? highNoiseFrac;

  final int? refinerInferenceSteps;

  final Draft? draft;

  final double? maskBlur;

  final InpaintArea? inpaintArea;

  final Borders? outpaint;

  final Drawn? drawn;

  final List<ControlParams>? controlnets;

  final List<ReferenceParams>? ipAdapters;

  final Upscale? upscale;

  final int? numFrames;

  final int? fps;

  final double? flowShift;

  final double? guidanceScale2;

  final List<LoraParams>? highNoiseLoras;

  final List<LoraParams>? lowNoiseLoras;

  final VideoQuality? videoQuality;

  final StepCache? stepCache;
}

/// A clip in numbers.
class VideoInfo {
  const VideoInfo({
    required this.frames,
    required this.width,
    required this.height,
    required this.fps,
    required this.durationSeconds,
  });

  factory VideoInfo.of(Map<Object?, Object?> map) => VideoInfo(
        frames: (map['frames']! as num).toInt(),
        width: (map['width']! as num).toInt(),
        height: (map['height']! as num).toInt(),
        fps: (map['fps']! as num).toInt(),
        durationSeconds: (map['duration_seconds']! as num).toDouble(),
      );

  final int frames;

  final int width;

  final int height;

  final int fps;

  final double durationSeconds;
}

/// The answer of a job that has a result; inline, its URLs are `data:` URIs.
class GenerationResponse {
  const GenerationResponse({
    this.images,
    this.imageUrl,
    this.videos,
    this.videoUrl,
    this.videoInfo,
    this.seed,
    this.seeds,
    this.model,
    this.params,
    required this.storage,
    this.timings,
    this.usage,
    this.warnings,
    this.files,
    required this.taskType,
    this.userId,
    this.fileUid,
  });

  factory GenerationResponse.of(Map<Object?, Object?> map) => GenerationResponse(
        images: map['images'] == null ? null : (map['images']! as List<Object?>).map((one) => one! as String).toList(),
        imageUrl: map['image_url'] == null ? null : map['image_url']! as String,
        videos: map['videos'] == null ? null : (map['videos']! as List<Object?>).map((one) => one! as String).toList(),
        videoUrl: map['video_url'] == null ? null : map['video_url']! as String,
        videoInfo: map['video_info'] == null ? null : VideoInfo.of(map['video_info']! as Map<Object?, Object?>),
        seed: map['seed'] == null ? null : (map['seed']! as num).toInt(),
        seeds: map['seeds'] == null ? null : (map['seeds']! as List<Object?>).map((one) => (one! as num).toInt()).toList(),
        model: map['model'] == null ? null : map['model']! as String,
        params: map['params'] == null ? null : GenerationParams.of(map['params']! as Map<Object?, Object?>),
        storage: StorageKind(map['storage']! as String),
        timings: map['timings'] == null ? null : (map['timings']! as Map<Object?, Object?>).map((key, one) => MapEntry(key! as String, (one! as num).toDouble())),
        usage: map['usage'] == null ? null : GenerationUsage.of(map['usage']! as Map<Object?, Object?>),
        warnings: map['warnings'] == null ? null : (map['warnings']! as List<Object?>).map((one) => one! as String).toList(),
        files: map['files'] == null ? null : (map['files']! as List<Object?>).map((one) => GenerationFile.of(one! as Map<Object?, Object?>)).toList(),
        taskType: TaskType(map['task_type']! as String),
        userId: map['user_id'] == null ? null : map['user_id']! as String,
        fileUid: map['file_uid'] == null ? null : map['file_uid']! as String,
      );

  final List<String>? images;

  final String? imageUrl;

  final List<String>? videos;

  final String? videoUrl;

  final VideoInfo? videoInfo;

  final int? seed;

  final List<int>? seeds;

  final String? model;

  final GenerationParams? params;

  final StorageKind storage;

  final Map<String, double>? timings;

  final GenerationUsage? usage;

  final List<String>? warnings;

  final List<GenerationFile>? files;

  final TaskType taskType;

  final String? userId;

  final String? fileUid;
}

/// A finished result, as the document keeps it: of images or of a clip.
class GenerationData {
  const GenerationData({
    this.images,
    this.imageUrl,
    this.videos,
    this.videoUrl,
    this.videoInfo,
    this.seed,
    this.seeds,
    this.model,
    this.params,
    required this.storage,
    this.timings,
    this.usage,
    this.warnings,
    this.files,
  });

  factory GenerationData.of(Map<Object?, Object?> map) => GenerationData(
        images: map['images'] == null ? null : (map['images']! as List<Object?>).map((one) => one! as String).toList(),
        imageUrl: map['image_url'] == null ? null : map['image_url']! as String,
        videos: map['videos'] == null ? null : (map['videos']! as List<Object?>).map((one) => one! as String).toList(),
        videoUrl: map['video_url'] == null ? null : map['video_url']! as String,
        videoInfo: map['video_info'] == null ? null : VideoInfo.of(map['video_info']! as Map<Object?, Object?>),
        seed: map['seed'] == null ? null : (map['seed']! as num).toInt(),
        seeds: map['seeds'] == null ? null : (map['seeds']! as List<Object?>).map((one) => (one! as num).toInt()).toList(),
        model: map['model'] == null ? null : map['model']! as String,
        params: map['params'] == null ? null : GenerationParams.of(map['params']! as Map<Object?, Object?>),
        storage: StorageKind(map['storage']! as String),
        timings: map['timings'] == null ? null : (map['timings']! as Map<Object?, Object?>).map((key, one) => MapEntry(key! as String, (one! as num).toDouble())),
        usage: map['usage'] == null ? null : GenerationUsage.of(map['usage']! as Map<Object?, Object?>),
        warnings: map['warnings'] == null ? null : (map['warnings']! as List<Object?>).map((one) => one! as String).toList(),
        files: map['files'] == null ? null : (map['files']! as List<Object?>).map((one) => GenerationFile.of(one! as Map<Object?, Object?>)).toList(),
      );

  /// Download URLs; empty where the result went inline.
  final List<String>? images;

  /// The first of them.
  final String? imageUrl;

  final List<String>? videos;

  final String? videoUrl;

  final VideoInfo? videoInfo;

  final int? seed;

  final List<int>? seeds;

  final String? model;

  final GenerationParams? params;

  final StorageKind storage;

  /// Seconds of each stage.
  final Map<String, double>? timings;

  final GenerationUsage? usage;

  /// What did not go as asked.
  final List<String>? warnings;

  final List<GenerationFile>? files;
}

/// What a document keeps of the request: all of its fields but `id_token`, with placeholders for inline pictures.
class RequestData {
  const RequestData({
    this.taskType,
    this.prompt,
    this.negativePrompt,
    this.model,
    this.style,
    this.seed,
    this.leftOut,
  });

  factory RequestData.of(Map<Object?, Object?> map) => RequestData(
        taskType: map['task_type'] == null ? null : TaskType(map['task_type']! as String),
        prompt: map['prompt'] == null ? null : map['prompt']! as String,
        negativePrompt: map['negative_prompt'] == null ? null : map['negative_prompt']! as String,
        model: map['model'] == null ? null : map['model']! as String,
        style: map['style'] == null ? null : map['style']! as String,
        seed: map['seed'] == null ? null : (map['seed']! as num).toInt(),
        leftOut: map['left_out'] == null ? null : map['left_out']! as bool,
      );

  final TaskType? taskType;

  final String? prompt;

  final String? negativePrompt;

  final String? model;

  final String? style;

  final int? seed;

  /// True: there was no room for the rest.
  final bool? leftOut;
}

/// A job's progress, as RunPod and the document receive it.
class GenerationProgress {
  const GenerationProgress({
    required this.stage,
    required this.step,
    required this.totalSteps,
    required this.percent,
    this.etaSeconds,
    this.preview,
  });

  factory GenerationProgress.of(Map<Object?, Object?> map) => GenerationProgress(
        stage: GenerationStage(map['stage']! as String),
        step: (map['step']! as num).toInt(),
        totalSteps: (map['total_steps']! as num).toInt(),
        percent: (map['percent']! as num).toInt(),
        etaSeconds: map['eta_seconds'] == null ? null : (map['eta_seconds']! as num).toInt(),
        preview: map['preview'] == null ? null : map['preview']! as String,
      );

  final GenerationStage stage;

  final int step;

  /// Both within the stage.
  final int totalSteps;

  /// Of the whole job; never decreases within an attempt.
  final int percent;

  /// Seconds left; null: not known.
  final int? etaSeconds;

  /// Only in the document, and only if requested: a data URI of a WebP of at most 8 KB.
  final String? preview;
}

/// Why a document is `failed`.
class GenerationError {
  const GenerationError({
    required this.code,
    required this.message,
    required this.retryable,
  });

  factory GenerationError.of(Map<Object?, Object?> map) => GenerationError(
        code: ErrorCode(map['code']! as String),
        message: map['message']! as String,
        retryable: map['retryable']! as bool,
      );

  final ErrorCode code;

  final String message;

  final bool retryable;
}

/// `generations/{user_id}/files/{file_uid}`; times are the server's.
class GenerationDocument {
  const GenerationDocument({
    required this.status,
    this.userId,
    this.fileUid,
    this.jobId,
    this.workerId,
    this.traceId,
    this.attempt,
    this.requestData,
    this.createdAt,
    this.updatedAt,
    this.completedAt,
    this.progress,
    this.heartbeatAt,
    this.expiresAt,
    this.deleteAt,
    this.usage,
    this.generationData,
    this.error,
    this.claim,
    this.cancelRequested,
    this.favorite,
    this.hidden,
    this.labels,
  });

  /// `time` makes a date of what the SDK, or the JSON, has for one.
  factory GenerationDocument.of(Map<Object?, Object?> map, DateTime Function(Object) time) => GenerationDocument(
        status: GenerationStatus(map['status']! as String),
        userId: map['user_id'] == null ? null : map['user_id']! as String,
        fileUid: map['file_uid'] == null ? null : map['file_uid']! as String,
        jobId: map['job_id'] == null ? null : map['job_id']! as String,
        workerId: map['worker_id'] == null ? null : map['worker_id']! as String,
        traceId: map['trace_id'] == null ? null : map['trace_id']! as String,
        attempt: map['attempt'] == null ? null : (map['attempt']! as num).toInt(),
        requestData: map['request_data'] == null ? null : RequestData.of(map['request_data']! as Map<Object?, Object?>),
        createdAt: map['created_at'] == null ? null : time(map['created_at']!),
        updatedAt: map['updated_at'] == null ? null : time(map['updated_at']!),
        completedAt: map['completed_at'] == null ? null : time(map['completed_at']!),
        progress: map['progress'] == null ? null : GenerationProgress.of(map['progress']! as Map<Object?, Object?>),
        heartbeatAt: map['heartbeat_at'] == null ? null : time(map['heartbeat_at']!),
        expiresAt: map['expires_at'] == null ? null : time(map['expires_at']!),
        deleteAt: map['delete_at'] == null ? null : time(map['delete_at']!),
        usage: map['usage'] == null ? null : GenerationUsage.of(map['usage']! as Map<Object?, Object?>),
        generationData: map['generation_data'] == null ? null : GenerationData.of(map['generation_data']! as Map<Object?, Object?>),
        error: map['error'] == null ? null : GenerationError.of(map['error']! as Map<Object?, Object?>),
        claim: map['claim'] == null ? null : (map['claim']! as Map<Object?, Object?>).map((key, one) => MapEntry(key! as String, one!)),
        cancelRequested: map['cancel_requested'] == null ? null : map['cancel_requested']! as bool,
        favorite: map['favorite'] == null ? null : map['favorite']! as bool,
        hidden: map['hidden'] == null ? null : map['hidden']! as bool,
        labels: map['labels'] == null ? null : (map['labels']! as List<Object?>).map((one) => one! as String).toList(),
      );

  final GenerationStatus status;

  final String? userId;

  final String? fileUid;

  final String? jobId;

  final String? workerId;

  /// Of the worker's log and traces.
  final String? traceId;

  final int? attempt;

  final RequestData? requestData;

  final DateTime? createdAt;

  final DateTime? updatedAt;

  final DateTime? completedAt;

  final GenerationProgress? progress;

  final DateTime? heartbeatAt;

  /// Past it the job is dead.
  final DateTime? expiresAt;

  /// From when on it may be deleted, where the operator keeps nothing for ever.
  final DateTime? deleteAt;

  final GenerationUsage? usage;

  final GenerationData? generationData;

  final GenerationError? error;

  /// The worker's own.
  final Map<String, Object>? claim;

  /// The app's, as what follows.
  final bool? cancelRequested;

  final bool? favorite;

  final bool? hidden;

  final List<String>? labels;
}

/// What a request would cost.
class Quote {
  const Quote({
    required this.units,
    this.estimatedSeconds,
    required this.params,
  });

  factory Quote.of(Map<Object?, Object?> map) => Quote(
        units: (map['units']! as num).toInt(),
        estimatedSeconds: map['estimated_seconds'] == null ? null : (map['estimated_seconds']! as num).toDouble(),
        params: GenerationParams.of(map['params']! as Map<Object?, Object?>),
      );

  /// On any card.
  final int units;

  /// On this worker's; null: not known yet.
  final double? estimatedSeconds;

  final GenerationParams params;
}

/// One of the operator's styles.
class ServedStyle {
  const ServedStyle({
    required this.name,
    required this.tasks,
  });

  factory ServedStyle.of(Map<Object?, Object?> map) => ServedStyle(
        name: map['name']! as String,
        tasks: (map['tasks']! as List<Object?>).map((one) => TaskType(one! as String)).toList(),
      );

  final String name;

  final List<TaskType> tasks;
}

/// One of the operator's LoRAs, as far as an app may show it.
class ServedLora {
  const ServedLora({
    required this.name,
    this.family,
    required this.triggerWords,
    this.licence,
  });

  factory ServedLora.of(Map<Object?, Object?> map) => ServedLora(
        name: map['name']! as String,
        family: map['family'] == null ? null : ModelFamily(map['family']! as String),
        triggerWords: (map['trigger_words']! as List<Object?>).map((one) => one! as String).toList(),
        licence: map['licence'] == null ? null : map['licence']! as String,
      );

  final String name;

  final ModelFamily? family;

  final List<String> triggerWords;

  final String? licence;
}

/// The names that the fields of sizes take.
class SizePresets {
  const SizePresets({
    required this.imageSize,
    required this.aspectRatio,
    required this.resolution,
  });

  factory SizePresets.of(Map<Object?, Object?> map) => SizePresets(
        imageSize: (map['image_size']! as List<Object?>).map((one) => one! as String).toList(),
        aspectRatio: (map['aspect_ratio']! as List<Object?>).map((one) => one! as String).toList(),
        resolution: (map['resolution']! as List<Object?>).map((one) => one! as String).toList(),
      );

  final List<String> imageSize;

  final List<String> aspectRatio;

  final List<String> resolution;
}

/// What this worker takes at most.
class Limits {
  const Limits({
    required this.promptCharacters,
    required this.imagePixels,
    required this.upscaledPixels,
    required this.jobCost,
    required this.inputImageBytes,
    required this.inputImagePixels,
    required this.resultBytes,
    required this.jobTimeoutSeconds,
  });

  factory Limits.of(Map<Object?, Object?> map) => Limits(
        promptCharacters: (map['prompt_characters']! as num).toInt(),
        imagePixels: (map['image_pixels']! as num).toInt(),
        upscaledPixels: (map['upscaled_pixels']! as num).toInt(),
        jobCost: (map['job_cost']! as num).toInt(),
        inputImageBytes: (map['input_image_bytes']! as num).toInt(),
        inputImagePixels: (map['input_image_pixels']! as num).toInt(),
        resultBytes: (map['result_bytes']! as num).toInt(),
        jobTimeoutSeconds: (map['job_timeout_seconds']! as num).toDouble(),
      );

  final int promptCharacters;

  final int imagePixels;

  final int upscaledPixels;

  final int jobCost;

  final int inputImageBytes;

  final int inputImagePixels;

  final int resultBytes;

  final double jobTimeoutSeconds;
}

/// Of the contract, the worker and the fingerprint of requests.
class Versions {
  const Versions({
    required this.contract,
    required this.worker,
    required this.fingerprint,
  });

  factory Versions.of(Map<Object?, Object?> map) => Versions(
        contract: (map['contract']! as num).toInt(),
        worker: map['worker']! as String,
        fingerprint: map['fingerprint']! as String,
      );

  final int contract;

  final String worker;

  final String fingerprint;
}

/// What a worker serves.
class Capabilities {
  const Capabilities({
    required this.tasks,
    required this.models,
    required this.styles,
    required this.loras,
    required this.controlnetTypes,
    required this.upscaleFactors,
    required this.sizePresets,
    required this.schedulers,
    required this.outputFormats,
    required this.preview,
    required this.limits,
    required this.versions,
  });

  factory Capabilities.of(Map<Object?, Object?> map) => Capabilities(
        tasks: (map['tasks']! as List<Object?>).map((one) => TaskType(one! as String)).toList(),
        models: (map['models']! as Map<Object?, Object?>).map((key, one) => MapEntry(key! as String, (one! as List<Object?>).map((one) => ServedModel.of(one! as Map<Object?, Object?>)).toList())),
        styles: (map['styles']! as List<Object?>).map((one) => ServedStyle.of(one! as Map<Object?, Object?>)).toList(),
        loras: (map['loras']! as List<Object?>).map((one) => ServedLora.of(one! as Map<Object?, Object?>)).toList(),
        controlnetTypes: (map['controlnet_types']! as List<Object?>).map((one) => one! as String).toList(),
        upscaleFactors: (map['upscale_factors']! as List<Object?>).map((one) => (one! as num).toInt()).toList(),
        sizePresets: SizePresets.of(map['size_presets']! as Map<Object?, Object?>),
        schedulers: (map['schedulers']! as List<Object?>).map((one) => Scheduler(one! as String)).toList(),
        outputFormats: (map['output_formats']! as List<Object?>).map((one) => OutputFormat(one! as String)).toList(),
        preview: map['preview']! as bool,
        limits: Limits.of(map['limits']! as Map<Object?, Object?>),
        versions: Versions.of(map['versions']! as Map<Object?, Object?>),
      );

  final List<TaskType> tasks;

  /// For each task, the default first.
  final Map<String, List<ServedModel>> models;

  final List<ServedStyle> styles;

  final List<ServedLora> loras;

  final List<String> controlnetTypes;

  final List<int> upscaleFactors;

  final SizePresets sizePresets;

  final List<Scheduler> schedulers;

  final List<OutputFormat> outputFormats;

  /// Whether documents show what is being made.
  final bool preview;

  final Limits limits;

  final Versions versions;
}

/// A model that serves a task; the fields of images and those of clips are the other's `NotRequired`.
class ServedModel {
  const ServedModel({
    required this.name,
    required this.width,
    required this.height,
    required this.sizeMultiple,
    required this.numInferenceSteps,
    required this.guidanceScale,
    required this.fewSteps,
    required this.accelerations,
    required this.aspectRatios,
    this.scheduler,
    this.schedulers,
    this.hasRefiner,
    this.hasIpAdapter,
    this.makesDepth,
    this.upscaler,
    this.imageSizes,
    this.numFrames,
    this.fps,
    this.endImage,
  });

  factory ServedModel.of(Map<Object?, Object?> map) => ServedModel(
        name: map['name']! as String,
        width: (map['width']! as num).toInt(),
        height: (map['height']! as num).toInt(),
        sizeMultiple: (map['size_multiple']! as num).toInt(),
        numInferenceSteps: (map['num_inference_steps']! as num).toInt(),
        guidanceScale: (map['guidance_scale']! as num).toDouble(),
        fewSteps: map['few_steps']! as bool,
        accelerations: (map['accelerations']! as List<Object?>).map((one) => AccelerationLevel(one! as String)).toList(),
        aspectRatios: (map['aspect_ratios']! as Map<Object?, Object?>).map((key, one) => MapEntry(key! as String, (one! as List<Object?>).map((one) => (one! as num).toInt()).toList())),
        scheduler: map['scheduler'] == null ? null : map['scheduler']! as String,
        schedulers: map['schedulers'] == null ? null : (map['schedulers']! as List<Object?>).map((one) => Scheduler(one! as String)).toList(),
        hasRefiner: map['has_refiner'] == null ? null : map['has_refiner']! as bool,
        hasIpAdapter: map['has_ip_adapter'] == null ? null : map['has_ip_adapter']! as bool,
        makesDepth: map['makes_depth'] == null ? null : map['makes_depth']! as bool,
        upscaler: map['upscaler'] == null ? null : map['upscaler']! as String,
        imageSizes: map['image_sizes'] == null ? null : (map['image_sizes']! as Map<Object?, Object?>).map((key, one) => MapEntry(key! as String, (one! as List<Object?>).map((one) => (one! as num).toInt()).toList())),
        numFrames: map['num_frames'] == null ? null : (map['num_frames']! as num).toInt(),
        fps: map['fps'] == null ? null : (map['fps']! as num).toInt(),
        endImage: map['end_image'] == null ? null : EndImage(map['end_image']! as String),
      );

  final String name;

  final int width;

  final int height;

  final int sizeMultiple;

  final int numInferenceSteps;

  final double guidanceScale;

  final bool fewSteps;

  final List<AccelerationLevel> accelerations;

  /// Width and height of each.
  final Map<String, List<int>> aspectRatios;

  /// null: its own.
  final String? scheduler;

  final List<Scheduler>? schedulers;

  final bool? hasRefiner;

  final bool? hasIpAdapter;

  final bool? makesDepth;

  /// null: Lanczos.
  final String? upscaler;

  final Map<String, List<int>>? imageSizes;

  final int? numFrames;

  final int? fps;

  final EndImage? endImage;
}
