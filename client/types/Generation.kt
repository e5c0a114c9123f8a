// Made by `python -m tools.schema` from the schemas in schema/: change those, not this.
//
// Read a document with `GenerationDocument.of(snapshot.data!!) { (it as Timestamp).toDate() }`; what an SDK has for a
// time is its own. Words may be some that this version does not know: a `when` over them has an `else`.

package generation

import java.util.Date

/** A job: what the worker takes. */
interface GenerationRequest {
    val taskType: TaskType

    /** What a callable function or a JSON library takes; what is null is not given. */
    fun toMap(): Map<String, Any>
}

private fun <T : Any> Map<*, *>.need(name: String, read: (Any) -> T): T =
    read(requireNotNull(this[name]) { "$name is missing" })

private fun <T : Any> Map<*, *>.maybe(name: String, read: (Any) -> T): T? = this[name]?.let(read)

private fun whole(value: Any): Long = (value as Number).toLong()

private fun number(value: Any): Double = (value as Number).toDouble()

private fun given(vararg fields: Pair<String, Any?>): Map<String, Any> =
    fields.mapNotNull { (name, value) -> value?.let { name to it } }.toMap()

@JvmInline
value class Acceleration(val value: String) {
    override fun toString() = value

    companion object {
        val NONE = Acceleration("none")
        val REGULAR = Acceleration("regular")
        val HIGH = Acceleration("high")
    }
}

@JvmInline
value class AccelerationLevel(val value: String) {
    override fun toString() = value

    companion object {
        val REGULAR = AccelerationLevel("regular")
        val HIGH = AccelerationLevel("high")
    }
}

@JvmInline
value class AspectRatio(val value: String) {
    override fun toString() = value

    companion object {
        val X21_TO_9 = AspectRatio("21:9")
        val X16_TO_9 = AspectRatio("16:9")
        val X3_TO_2 = AspectRatio("3:2")
        val X4_TO_3 = AspectRatio("4:3")
        val X5_TO_4 = AspectRatio("5:4")
        val X1_TO_1 = AspectRatio("1:1")
        val X4_TO_5 = AspectRatio("4:5")
        val X3_TO_4 = AspectRatio("3:4")
        val X2_TO_3 = AspectRatio("2:3")
        val X9_TO_16 = AspectRatio("9:16")
        val X9_TO_21 = AspectRatio("9:21")
    }
}

@JvmInline
value class ControlType(val value: String) {
    override fun toString() = value

    companion object {
        val CANNY = ControlType("canny")
        val DEPTH = ControlType("depth")
        val OPENPOSE = ControlType("openpose")
        val SCRIBBLE = ControlType("scribble")
        val LINEART = ControlType("lineart")
        val SOFTEDGE = ControlType("softedge")
        val TILE = ControlType("tile")
        val SEGMENT = ControlType("segment")
        val NORMAL = ControlType("normal")
    }
}

@JvmInline
value class EndImage(val value: String) {
    override fun toString() = value

    companion object {
        val NO = EndImage("no")
        val OPTIONAL = EndImage("optional")
        val REQUIRED = EndImage("required")
    }
}

@JvmInline
value class ErrorCode(val value: String) {
    override fun toString() = value

    companion object {
        val CANCELLED = ErrorCode("cancelled")
        val DELETED = ErrorCode("deleted")
        val DISK_FULL = ErrorCode("disk_full")
        val DOWNLOAD_FAILED = ErrorCode("download_failed")
        val DUPLICATE_IN_PROGRESS = ErrorCode("duplicate_in_progress")
        val FORBIDDEN = ErrorCode("forbidden")
        val GPU_FAULT = ErrorCode("gpu_fault")
        val IDEMPOTENCY_MISMATCH = ErrorCode("idempotency_mismatch")
        val INTERNAL = ErrorCode("internal")
        val INVALID_IMAGE = ErrorCode("invalid_image")
        val INVALID_INPUT = ErrorCode("invalid_input")
        val MODEL_UNAVAILABLE = ErrorCode("model_unavailable")
        val OUT_OF_MEMORY = ErrorCode("out_of_memory")
        val POISON_JOB = ErrorCode("poison_job")
        val RESULT_TOO_LARGE = ErrorCode("result_too_large")
        val STORAGE_UNAVAILABLE = ErrorCode("storage_unavailable")
        val SUPERSEDED = ErrorCode("superseded")
        val TIMEOUT = ErrorCode("timeout")
        val UNAUTHENTICATED = ErrorCode("unauthenticated")
        val URL_BLOCKED = ErrorCode("url_blocked")
        val WORKER_LOST = ErrorCode("worker_lost")
    }
}

@JvmInline
value class GenerationStage(val value: String) {
    override fun toString() = value

    companion object {
        val QUEUED = GenerationStage("queued")
        val LOADING = GenerationStage("loading")
        val GENERATING = GenerationStage("generating")
        val UPLOADING = GenerationStage("uploading")
    }
}

@JvmInline
value class GenerationStatus(val value: String) {
    override fun toString() = value

    companion object {
        val QUEUED = GenerationStatus("queued")
        val PROCESSING = GenerationStatus("processing")
        val COMPLETED = GenerationStatus("completed")
        val FAILED = GenerationStatus("failed")
    }
}

@JvmInline
value class ImageSizeName(val value: String) {
    override fun toString() = value

    companion object {
        val SQUARE_HD = ImageSizeName("square_hd")
        val SQUARE = ImageSizeName("square")
        val PORTRAIT_4_3 = ImageSizeName("portrait_4_3")
        val PORTRAIT_16_9 = ImageSizeName("portrait_16_9")
        val LANDSCAPE_4_3 = ImageSizeName("landscape_4_3")
        val LANDSCAPE_16_9 = ImageSizeName("landscape_16_9")
    }
}

@JvmInline
value class InpaintArea(val value: String) {
    override fun toString() = value

    companion object {
        val WHOLE = InpaintArea("whole")
        val MASKED = InpaintArea("masked")
    }
}

@JvmInline
value class ModelFamily(val value: String) {
    override fun toString() = value

    companion object {
        val SDXL = ModelFamily("sdxl")
        val WAN = ModelFamily("wan")
    }
}

@JvmInline
value class OutputFormat(val value: String) {
    override fun toString() = value

    companion object {
        val PNG = OutputFormat("png")
        val JPEG = OutputFormat("jpeg")
        val WEBP = OutputFormat("webp")
    }
}

@JvmInline
value class QuantizedKind(val value: String) {
    override fun toString() = value

    companion object {
        val INT8 = QuantizedKind("int8")
        val FP8 = QuantizedKind("fp8")
    }
}

@JvmInline
value class ReferenceType(val value: String) {
    override fun toString() = value

    companion object {
        val SUBJECT = ReferenceType("subject")
        val STYLE = ReferenceType("style")
    }
}

@JvmInline
value class Resolution(val value: String) {
    override fun toString() = value

    companion object {
        val X480P = Resolution("480p")
        val X720P = Resolution("720p")
    }
}

@JvmInline
value class Scheduler(val value: String) {
    override fun toString() = value

    companion object {
        val DDIM = Scheduler("DDIM")
        val PNDM = Scheduler("PNDM")
        val KLMS = Scheduler("KLMS")
        val K_EULER = Scheduler("K_EULER")
        val K_EULER_ANCESTRAL = Scheduler("K_EULER_ANCESTRAL")
        val DPM_SOLVER_MULTISTEP = Scheduler("DPMSolverMultistep")
        val DPM_SOLVER_SINGLESTEP = Scheduler("DPMSolverSinglestep")
        val DPM_SOLVER_MULTISTEP_KARRAS = Scheduler("DPMSolverMultistepKarras")
        val DPM_SOLVER_SDE_MULTISTEP_KARRAS = Scheduler("DPMSolverSDEMultistepKarras")
        val HEUN = Scheduler("HEUN")
        val UNI_PC = Scheduler("UniPC")
        val LCM = Scheduler("LCM")
        val TCD = Scheduler("TCD")
        val K_EULER_TRAILING = Scheduler("K_EULER_TRAILING")
    }
}

@JvmInline
value class StepCacheKind(val value: String) {
    override fun toString() = value

    companion object {
        val FIRST_BLOCK = StepCacheKind("first_block")
        val SEA = StepCacheKind("sea")
    }
}

@JvmInline
value class StorageKind(val value: String) {
    override fun toString() = value

    companion object {
        val FIREBASE = StorageKind("firebase")
        val BASE64 = StorageKind("base64")
    }
}

@JvmInline
value class TaskType(val value: String) {
    override fun toString() = value

    companion object {
        val TEXT2IMG = TaskType("text2img")
        val IMG2IMG = TaskType("img2img")
        val INPAINT = TaskType("inpaint")
        val UPSCALE = TaskType("upscale")
        val TEXT2VIDEO = TaskType("text2video")
        val IMG2VIDEO = TaskType("img2video")
    }
}

@JvmInline
value class VideoQuality(val value: String) {
    override fun toString() = value

    companion object {
        val LOW = VideoQuality("low")
        val MEDIUM = VideoQuality("medium")
        val HIGH = VideoQuality("high")
        val MAXIMUM = VideoQuality("maximum")
    }
}

/** A picture that controls the composition of the result. */
data class ControlNet(
    val type: ControlType,
    val imageUrl: String,
    val preprocess: Boolean? = null,
    val conditioningScale: Double? = null,
    val startPercentage: Double? = null,
    val endPercentage: Double? = null,
) {
    fun toMap(): Map<String, Any> = given(
        "type" to type.value,
        "image_url" to imageUrl,
        "preprocess" to preprocess,
        "conditioning_scale" to conditioningScale,
        "start_percentage" to startPercentage,
        "end_percentage" to endPercentage,
    )
}

/** Low-rank weights that are added to the model's own. */
data class Lora(
    val path: String,
    val scale: Double? = null,
    val weightName: String? = null,
) {
    fun toMap(): Map<String, Any> = given(
        "path" to path,
        "scale" to scale,
        "weight_name" to weightName,
    )
}

/** A picture whose subject or style the result takes on. */
data class IpAdapter(
    val imageUrl: String,
    val scale: Double? = null,
    val type: ReferenceType? = null,
) {
    fun toMap(): Map<String, Any> = given(
        "image_url" to imageUrl,
        "scale" to scale,
        "type" to type?.value,
    )
}

/** Images from a picture and a prompt. */
data class Img2ImgRequest(
    val prompt: String,
    val imageUrl: String,
    val negativePrompt: String? = null,
    val promptWeighting: Boolean? = null,
    val style: String? = null,
    val model: String? = null,
    val seed: Long? = null,
    val numInferenceSteps: Long? = null,
    val acceleration: Acceleration? = null,
    val userId: String? = null,
    val fileUid: String? = null,
    val useCloudStorage: Boolean? = null,
    val preview: Boolean? = null,
    val idToken: String? = null,
    val outputFormat: OutputFormat? = null,
    val outputQuality: Long? = null,
    val upscaleFactor: Long? = null,
    val upscaleCreativity: Double? = null,
    val width: Long? = null,
    val height: Long? = null,
    val imageSize: ImageSizeName? = null,
    val aspectRatio: AspectRatio? = null,
    val numImages: Long? = null,
    val guidanceScale: Double? = null,
    val scheduler: Scheduler? = null,
    val loras: List<Lora>? = null,
    val controlnets: List<ControlNet>? = null,
    val ipAdapters: List<IpAdapter>? = null,
    val highNoiseFrac: Double? = null,
    val refinerInferenceSteps: Long? = null,
    val strength: Double? = null,
) : GenerationRequest {
    override val taskType get() = TaskType.IMG2IMG

    override fun toMap(): Map<String, Any> = given(
        "prompt" to prompt,
        "negative_prompt" to negativePrompt,
        "prompt_weighting" to promptWeighting,
        "style" to style,
        "model" to model,
        "seed" to seed,
        "num_inference_steps" to numInferenceSteps,
        "acceleration" to acceleration?.value,
        "user_id" to userId,
        "file_uid" to fileUid,
        "use_cloud_storage" to useCloudStorage,
        "preview" to preview,
        "id_token" to idToken,
        "output_format" to outputFormat?.value,
        "output_quality" to outputQuality,
        "upscale_factor" to upscaleFactor,
        "upscale_creativity" to upscaleCreativity,
        "width" to width,
        "height" to height,
        "image_size" to imageSize?.value,
        "aspect_ratio" to aspectRatio?.value,
        "num_images" to numImages,
        "guidance_scale" to guidanceScale,
        "scheduler" to scheduler?.value,
        "loras" to loras?.map { it.toMap() },
        "controlnets" to controlnets?.map { it.toMap() },
        "ip_adapters" to ipAdapters?.map { it.toMap() },
        "high_noise_frac" to highNoiseFrac,
        "refiner_inference_steps" to refinerInferenceSteps,
        "task_type" to taskType.value,
        "image_url" to imageUrl,
        "strength" to strength,
    )
}

/** A clip that starts from a picture, and may end with one. */
data class Img2VideoRequest(
    val prompt: String,
    val imageUrl: String,
    val negativePrompt: String? = null,
    val promptWeighting: Boolean? = null,
    val style: String? = null,
    val model: String? = null,
    val seed: Long? = null,
    val numInferenceSteps: Long? = null,
    val acceleration: Acceleration? = null,
    val userId: String? = null,
    val fileUid: String? = null,
    val useCloudStorage: Boolean? = null,
    val preview: Boolean? = null,
    val idToken: String? = null,
    val videoWidth: Long? = null,
    val videoHeight: Long? = null,
    val aspectRatio: AspectRatio? = null,
    val resolution: Resolution? = null,
    val duration: Double? = null,
    val numFrames: Long? = null,
    val fps: Long? = null,
    val videoGuidanceScale: Double? = null,
    val flowShift: Double? = null,
    val videoQuality: VideoQuality? = null,
    val loras: List<Lora>? = null,
    val highNoiseLoras: List<Lora>? = null,
    val lowNoiseLoras: List<Lora>? = null,
    val endImageUrl: String? = null,
) : GenerationRequest {
    override val taskType get() = TaskType.IMG2VIDEO

    override fun toMap(): Map<String, Any> = given(
        "prompt" to prompt,
        "negative_prompt" to negativePrompt,
        "prompt_weighting" to promptWeighting,
        "style" to style,
        "model" to model,
        "seed" to seed,
        "num_inference_steps" to numInferenceSteps,
        "acceleration" to acceleration?.value,
        "user_id" to userId,
        "file_uid" to fileUid,
        "use_cloud_storage" to useCloudStorage,
        "preview" to preview,
        "id_token" to idToken,
        "video_width" to videoWidth,
        "video_height" to videoHeight,
        "aspect_ratio" to aspectRatio?.value,
        "resolution" to resolution?.value,
        "duration" to duration,
        "num_frames" to numFrames,
        "fps" to fps,
        "video_guidance_scale" to videoGuidanceScale,
        "flow_shift" to flowShift,
        "video_quality" to videoQuality?.value,
        "loras" to loras?.map { it.toMap() },
        "high_noise_loras" to highNoiseLoras?.map { it.toMap() },
        "low_noise_loras" to lowNoiseLoras?.map { it.toMap() },
        "task_type" to taskType.value,
        "image_url" to imageUrl,
        "end_image_url" to endImageUrl,
    )
}

/** How many pixels the canvas grows on each side. */
data class Outpaint(
    val left: Long? = null,
    val right: Long? = null,
    val up: Long? = null,
    val down: Long? = null,
) {
    fun toMap(): Map<String, Any> = given(
        "left" to left,
        "right" to right,
        "up" to up,
        "down" to down,
    )
}

/** A part of a picture, drawn again: white in the mask is repainted, grey in proportion. */
data class InpaintRequest(
    val prompt: String,
    val imageUrl: String,
    val negativePrompt: String? = null,
    val promptWeighting: Boolean? = null,
    val style: String? = null,
    val model: String? = null,
    val seed: Long? = null,
    val numInferenceSteps: Long? = null,
    val acceleration: Acceleration? = null,
    val userId: String? = null,
    val fileUid: String? = null,
    val useCloudStorage: Boolean? = null,
    val preview: Boolean? = null,
    val idToken: String? = null,
    val outputFormat: OutputFormat? = null,
    val outputQuality: Long? = null,
    val upscaleFactor: Long? = null,
    val upscaleCreativity: Double? = null,
    val width: Long? = null,
    val height: Long? = null,
    val imageSize: ImageSizeName? = null,
    val aspectRatio: AspectRatio? = null,
    val numImages: Long? = null,
    val guidanceScale: Double? = null,
    val scheduler: Scheduler? = null,
    val loras: List<Lora>? = null,
    val controlnets: List<ControlNet>? = null,
    val ipAdapters: List<IpAdapter>? = null,
    val highNoiseFrac: Double? = null,
    val refinerInferenceSteps: Long? = null,
    val outpaint: Outpaint? = null,
    val maskUrl: String? = null,
    val maskBlur: Double? = null,
    val inpaintArea: InpaintArea? = null,
    val strength: Double? = null,
) : GenerationRequest {
    override val taskType get() = TaskType.INPAINT

    override fun toMap(): Map<String, Any> = given(
        "prompt" to prompt,
        "negative_prompt" to negativePrompt,
        "prompt_weighting" to promptWeighting,
        "style" to style,
        "model" to model,
        "seed" to seed,
        "num_inference_steps" to numInferenceSteps,
        "acceleration" to acceleration?.value,
        "user_id" to userId,
        "file_uid" to fileUid,
        "use_cloud_storage" to useCloudStorage,
        "preview" to preview,
        "id_token" to idToken,
        "output_format" to outputFormat?.value,
        "output_quality" to outputQuality,
        "upscale_factor" to upscaleFactor,
        "upscale_creativity" to upscaleCreativity,
        "width" to width,
        "height" to height,
        "image_size" to imageSize?.value,
        "aspect_ratio" to aspectRatio?.value,
        "num_images" to numImages,
        "guidance_scale" to guidanceScale,
        "scheduler" to scheduler?.value,
        "loras" to loras?.map { it.toMap() },
        "controlnets" to controlnets?.map { it.toMap() },
        "ip_adapters" to ipAdapters?.map { it.toMap() },
        "high_noise_frac" to highNoiseFrac,
        "refiner_inference_steps" to refinerInferenceSteps,
        "task_type" to taskType.value,
        "image_url" to imageUrl,
        "outpaint" to outpaint?.toMap(),
        "mask_url" to maskUrl,
        "mask_blur" to maskBlur,
        "inpaint_area" to inpaintArea?.value,
        "strength" to strength,
    )
}

/** Images from a prompt. */
data class Text2ImgRequest(
    val prompt: String,
    val negativePrompt: String? = null,
    val promptWeighting: Boolean? = null,
    val style: String? = null,
    val model: String? = null,
    val seed: Long? = null,
    val numInferenceSteps: Long? = null,
    val acceleration: Acceleration? = null,
    val userId: String? = null,
    val fileUid: String? = null,
    val useCloudStorage: Boolean? = null,
    val preview: Boolean? = null,
    val idToken: String? = null,
    val outputFormat: OutputFormat? = null,
    val outputQuality: Long? = null,
    val upscaleFactor: Long? = null,
    val upscaleCreativity: Double? = null,
    val width: Long? = null,
    val height: Long? = null,
    val imageSize: ImageSizeName? = null,
    val aspectRatio: AspectRatio? = null,
    val numImages: Long? = null,
    val guidanceScale: Double? = null,
    val scheduler: Scheduler? = null,
    val loras: List<Lora>? = null,
    val controlnets: List<ControlNet>? = null,
    val ipAdapters: List<IpAdapter>? = null,
    val highNoiseFrac: Double? = null,
    val refinerInferenceSteps: Long? = null,
) : GenerationRequest {
    override val taskType get() = TaskType.TEXT2IMG

    override fun toMap(): Map<String, Any> = given(
        "prompt" to prompt,
        "negative_prompt" to negativePrompt,
        "prompt_weighting" to promptWeighting,
        "style" to style,
        "model" to model,
        "seed" to seed,
        "num_inference_steps" to numInferenceSteps,
        "acceleration" to acceleration?.value,
        "user_id" to userId,
        "file_uid" to fileUid,
        "use_cloud_storage" to useCloudStorage,
        "preview" to preview,
        "id_token" to idToken,
        "output_format" to outputFormat?.value,
        "output_quality" to outputQuality,
        "upscale_factor" to upscaleFactor,
        "upscale_creativity" to upscaleCreativity,
        "width" to width,
        "height" to height,
        "image_size" to imageSize?.value,
        "aspect_ratio" to aspectRatio?.value,
        "num_images" to numImages,
        "guidance_scale" to guidanceScale,
        "scheduler" to scheduler?.value,
        "loras" to loras?.map { it.toMap() },
        "controlnets" to controlnets?.map { it.toMap() },
        "ip_adapters" to ipAdapters?.map { it.toMap() },
        "high_noise_frac" to highNoiseFrac,
        "refiner_inference_steps" to refinerInferenceSteps,
        "task_type" to taskType.value,
    )
}

/** A clip from a prompt. */
data class Text2VideoRequest(
    val prompt: String,
    val negativePrompt: String? = null,
    val promptWeighting: Boolean? = null,
    val style: String? = null,
    val model: String? = null,
    val seed: Long? = null,
    val numInferenceSteps: Long? = null,
    val acceleration: Acceleration? = null,
    val userId: String? = null,
    val fileUid: String? = null,
    val useCloudStorage: Boolean? = null,
    val preview: Boolean? = null,
    val idToken: String? = null,
    val videoWidth: Long? = null,
    val videoHeight: Long? = null,
    val aspectRatio: AspectRatio? = null,
    val resolution: Resolution? = null,
    val duration: Double? = null,
    val numFrames: Long? = null,
    val fps: Long? = null,
    val videoGuidanceScale: Double? = null,
    val flowShift: Double? = null,
    val videoQuality: VideoQuality? = null,
    val loras: List<Lora>? = null,
    val highNoiseLoras: List<Lora>? = null,
    val lowNoiseLoras: List<Lora>? = null,
) : GenerationRequest {
    override val taskType get() = TaskType.TEXT2VIDEO

    override fun toMap(): Map<String, Any> = given(
        "prompt" to prompt,
        "negative_prompt" to negativePrompt,
        "prompt_weighting" to promptWeighting,
        "style" to style,
        "model" to model,
        "seed" to seed,
        "num_inference_steps" to numInferenceSteps,
        "acceleration" to acceleration?.value,
        "user_id" to userId,
        "file_uid" to fileUid,
        "use_cloud_storage" to useCloudStorage,
        "preview" to preview,
        "id_token" to idToken,
        "video_width" to videoWidth,
        "video_height" to videoHeight,
        "aspect_ratio" to aspectRatio?.value,
        "resolution" to resolution?.value,
        "duration" to duration,
        "num_frames" to numFrames,
        "fps" to fps,
        "video_guidance_scale" to videoGuidanceScale,
        "flow_shift" to flowShift,
        "video_quality" to videoQuality?.value,
        "loras" to loras?.map { it.toMap() },
        "high_noise_loras" to highNoiseLoras?.map { it.toMap() },
        "low_noise_loras" to lowNoiseLoras?.map { it.toMap() },
        "task_type" to taskType.value,
    )
}

/** A picture, enlarged. */
data class UpscaleRequest(
    val upscaleFactor: Long,
    val imageUrl: String,
    val prompt: String? = null,
    val negativePrompt: String? = null,
    val promptWeighting: Boolean? = null,
    val style: String? = null,
    val model: String? = null,
    val seed: Long? = null,
    val numInferenceSteps: Long? = null,
    val acceleration: Acceleration? = null,
    val userId: String? = null,
    val fileUid: String? = null,
    val useCloudStorage: Boolean? = null,
    val preview: Boolean? = null,
    val idToken: String? = null,
    val outputFormat: OutputFormat? = null,
    val outputQuality: Long? = null,
    val upscaleCreativity: Double? = null,
) : GenerationRequest {
    override val taskType get() = TaskType.UPSCALE

    override fun toMap(): Map<String, Any> = given(
        "prompt" to prompt,
        "negative_prompt" to negativePrompt,
        "prompt_weighting" to promptWeighting,
        "style" to style,
        "model" to model,
        "seed" to seed,
        "num_inference_steps" to numInferenceSteps,
        "acceleration" to acceleration?.value,
        "user_id" to userId,
        "file_uid" to fileUid,
        "use_cloud_storage" to useCloudStorage,
        "preview" to preview,
        "id_token" to idToken,
        "output_format" to outputFormat?.value,
        "output_quality" to outputQuality,
        "upscale_factor" to upscaleFactor,
        "upscale_creativity" to upscaleCreativity,
        "task_type" to taskType.value,
        "image_url" to imageUrl,
    )
}

/** Widths of the outpainted borders around the client's picture, in pixels of the output. */
data class Borders(
    val left: Long? = null,
    val right: Long? = null,
    val up: Long? = null,
    val down: Long? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = Borders(
            left = map.maybe("left") { whole(it) },
            right = map.maybe("right") { whole(it) },
            up = map.maybe("up") { whole(it) },
            down = map.maybe("down") { whole(it) },
        )
    }
}

/** One picture that says where things are, as the request has it, without the picture. */
data class ControlParams(
    val type: ControlType,
    val preprocess: Boolean? = null,
    val conditioningScale: Double? = null,
    val startPercentage: Double? = null,
    val endPercentage: Double? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = ControlParams(
            type = map.need("type") { ControlType(it as String) },
            preprocess = map.maybe("preprocess") { it as Boolean },
            conditioningScale = map.maybe("conditioning_scale") { number(it) },
            startPercentage = map.maybe("start_percentage") { number(it) },
            endPercentage = map.maybe("end_percentage") { number(it) },
        )
    }
}

/** The first of two passes: the whole schedule at about the native size. What it made is enlarged and finished. */
data class Draft(
    val width: Long,
    val height: Long,
    val strength: Double,
) {
    companion object {
        fun of(map: Map<*, *>) = Draft(
            width = map.need("width") { whole(it) },
            height = map.need("height") { whole(it) },
            strength = map.need("strength") { number(it) },
        )
    }
}

/** The part of the output that the model draws, if that is not the whole output at its own size. */
data class Drawn(
    val width: Long,
    val height: Long,
    val box: List<Long>,
) {
    companion object {
        fun of(map: Map<*, *>) = Drawn(
            width = map.need("width") { whole(it) },
            height = map.need("height") { whole(it) },
            box = map.need("box") { (it as List<*>).map { one -> whole(one!!) } },
        )
    }
}

/** What a job has used. */
data class GenerationUsage(
    val gpuSeconds: Double,
    /** The price, which does not depend on the card. */
    val units: Long,
) {
    companion object {
        fun of(map: Map<*, *>) = GenerationUsage(
            gpuSeconds = map.need("gpu_seconds") { number(it) },
            units = map.need("units") { whole(it) },
        )
    }
}

/** The answer of a job that has none. */
data class GenerationFailure(
    /** `error_code: message`, in one sentence. */
    val error: String,
    val errorCode: ErrorCode,
    /** Whether the same request may succeed when it is sent again. */
    val retryable: Boolean,
    val taskType: TaskType? = null,
    val fileUid: String? = null,
    val userId: String? = null,
    val usage: GenerationUsage? = null,
    /** For RunPod: the worker is replaced. */
    val refreshWorker: Boolean? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = GenerationFailure(
            error = map.need("error") { it as String },
            errorCode = map.need("error_code") { ErrorCode(it as String) },
            retryable = map.need("retryable") { it as Boolean },
            taskType = map.maybe("task_type") { TaskType(it as String) },
            fileUid = map.maybe("file_uid") { it as String },
            userId = map.maybe("user_id") { it as String },
            usage = map.maybe("usage") { GenerationUsage.of(it as Map<*, *>) },
            refreshWorker = map.maybe("refresh_worker") { it as Boolean },
        )
    }
}

/** One file of a result. */
data class GenerationFile(
    val contentType: String,
    val bytes: Long,
    val width: Long,
    /** Both in pixels. */
    val height: Long,
    val seed: Long,
    /** null: it went inline, as the others that may be. */
    val url: String? = null,
    val storagePath: String? = null,
    val thumbnailUrl: String? = null,
    val thumbnailPath: String? = null,
    /** Colours to show until the thumbnail is here: https://blurha.sh. */
    val blurhash: String? = null,
    /** Of a clip: its thumbnail. */
    val posterUrl: String? = null,
    val posterPath: String? = null,
    /** What the content safety check said, where there is one. */
    val nsfw: Boolean? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = GenerationFile(
            contentType = map.need("content_type") { it as String },
            bytes = map.need("bytes") { whole(it) },
            width = map.need("width") { whole(it) },
            height = map.need("height") { whole(it) },
            seed = map.need("seed") { whole(it) },
            url = map.maybe("url") { it as String },
            storagePath = map.maybe("storage_path") { it as String },
            thumbnailUrl = map.maybe("thumbnail_url") { it as String },
            thumbnailPath = map.maybe("thumbnail_path") { it as String },
            blurhash = map.maybe("blurhash") { it as String },
            posterUrl = map.maybe("poster_url") { it as String },
            posterPath = map.maybe("poster_path") { it as String },
            nsfw = map.maybe("nsfw") { it as Boolean },
        )
    }
}

/** A LoRA by its public name, and by how much it counts. */
data class LoraParams(
    val name: String,
    val scale: Double,
) {
    companion object {
        fun of(map: Map<*, *>) = LoraParams(
            name = map.need("name") { it as String },
            scale = map.need("scale") { number(it) },
        )
    }
}

/** How a picture beside the prompt is used. */
data class ReferenceParams(
    val type: ReferenceType,
    val scale: Double,
) {
    companion object {
        fun of(map: Map<*, *>) = ReferenceParams(
            type = map.need("type") { ReferenceType(it as String) },
            scale = map.need("scale") { number(it) },
        )
    }
}

/** How a finished picture is enlarged, and its details drawn anew where that is wanted. */
data class Upscale(
    val factor: Long,
    val width: Long,
    val height: Long,
    val upscaler: String,
    val creativity: Double? = null,
    val tile: List<Long>? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = Upscale(
            factor = map.need("factor") { whole(it) },
            width = map.need("width") { whole(it) },
            height = map.need("height") { whole(it) },
            upscaler = map.need("upscaler") { it as String },
            creativity = map.maybe("creativity") { number(it) },
            tile = map.maybe("tile") { (it as List<*>).map { one -> whole(one!!) } },
        )
    }
}

/** Which denoising steps of a clip are not computed in full. */
data class StepCache(
    val kind: StepCacheKind,
    val threshold: Double,
) {
    companion object {
        fun of(map: Map<*, *>) = StepCache(
            kind = map.need("kind") { StepCacheKind(it as String) },
            threshold = map.need("threshold") { number(it) },
        )
    }
}

/** What really ran; what did not count is not there. */
data class GenerationParams(
    val width: Long,
    val height: Long,
    val negativePromptOf: String? = null,
    val promptWeighting: Boolean? = null,
    val style: String? = null,
    val loras: List<LoraParams>? = null,
    val acceleration: AccelerationLevel? = null,
    val quantize: QuantizedKind? = null,
    val numInferenceSteps: Long? = null,
    val guidanceScale: Double? = null,
    val scheduler: Scheduler? = null,
    val predictionType: String? = null,
    val timestepSpacing: String? = null,
    val originalInferenceSteps: Long? = null,
    val guidanceRescale: Double? = null,
    val microConditioning: List<Long>? = null,
    val strength: Double? = null,
    val highNoiseFrac: Double? = null,
    val refinerInferenceSteps: Long? = null,
    val draft: Draft? = null,
    val maskBlur: Double? = null,
    val inpaintArea: InpaintArea? = null,
    val outpaint: Borders? = null,
    val drawn: Drawn? = null,
    val controlnets: List<ControlParams>? = null,
    val ipAdapters: List<ReferenceParams>? = null,
    val upscale: Upscale? = null,
    val numFrames: Long? = null,
    val fps: Long? = null,
    val flowShift: Double? = null,
    val guidanceScale2: Double? = null,
    val highNoiseLoras: List<LoraParams>? = null,
    val lowNoiseLoras: List<LoraParams>? = null,
    val videoQuality: VideoQuality? = null,
    val stepCache: StepCache? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = GenerationParams(
            width = map.need("width") { whole(it) },
            height = map.need("height") { whole(it) },
            negativePromptOf = map.maybe("negative_prompt_of") { it as String },
            promptWeighting = map.maybe("prompt_weighting") { it as Boolean },
            style = map.maybe("style") { it as String },
            loras = map.maybe("loras") { (it as List<*>).map { one -> LoraParams.of(one!! as Map<*, *>) } },
            acceleration = map.maybe("acceleration") { AccelerationLevel(it as String) },
            quantize = map.maybe("quantize") { QuantizedKind(it as String) },
            numInferenceSteps = map.maybe("num_inference_steps") { whole(it) },
            guidanceScale = map.maybe("guidance_scale") { number(it) },
            scheduler = map.maybe("scheduler") { Scheduler(it as String) },
            predictionType = map.maybe("prediction_type") { it as String },
            timestepSpacing = map.maybe("timestep_spacing") { it as String },
            originalInferenceSteps = map.maybe("original_inference_steps") { whole(it) },
            guidanceRescale = map.maybe("guidance_rescale") { number(it) },
            microConditioning = map.maybe("micro_conditioning") { (it as List<*>).map { one -> whole(one!!) } },
            strength = map.maybe("strength") { number(it) },
            highNoiseFrac = map.maybe("high_noise_frac") { number(it) },
            refinerInferenceSteps = map.maybe("refiner_inference_steps") { whole(it) },
            draft = map.maybe("draft") { Draft.of(it as Map<*, *>) },
            maskBlur = map.maybe("mask_blur") { number(it) },
            inpaintArea = map.maybe("inpaint_area") { InpaintArea(it as String) },
            outpaint = map.maybe("outpaint") { Borders.of(it as Map<*, *>) },
            drawn = map.maybe("drawn") { Drawn.of(it as Map<*, *>) },
            controlnets = map.maybe("controlnets") { (it as List<*>).map { one -> ControlParams.of(one!! as Map<*, *>) } },
            ipAdapters = map.maybe("ip_adapters") { (it as List<*>).map { one -> ReferenceParams.of(one!! as Map<*, *>) } },
            upscale = map.maybe("upscale") { Upscale.of(it as Map<*, *>) },
            numFrames = map.maybe("num_frames") { whole(it) },
            fps = map.maybe("fps") { whole(it) },
            flowShift = map.maybe("flow_shift") { number(it) },
            guidanceScale2 = map.maybe("guidance_scale_2") { number(it) },
            highNoiseLoras = map.maybe("high_noise_loras") { (it as List<*>).map { one -> LoraParams.of(one!! as Map<*, *>) } },
            lowNoiseLoras = map.maybe("low_noise_loras") { (it as List<*>).map { one -> LoraParams.of(one!! as Map<*, *>) } },
            videoQuality = map.maybe("video_quality") { VideoQuality(it as String) },
            stepCache = map.maybe("step_cache") { StepCache.of(it as Map<*, *>) },
        )
    }
}

/** A clip in numbers. */
data class VideoInfo(
    val frames: Long,
    val width: Long,
    val height: Long,
    val fps: Long,
    val durationSeconds: Double,
) {
    companion object {
        fun of(map: Map<*, *>) = VideoInfo(
            frames = map.need("frames") { whole(it) },
            width = map.need("width") { whole(it) },
            height = map.need("height") { whole(it) },
            fps = map.need("fps") { whole(it) },
            durationSeconds = map.need("duration_seconds") { number(it) },
        )
    }
}

/** The answer of a job that has a result; inline, its URLs are `data:` URIs. */
data class GenerationResponse(
    val storage: StorageKind,
    val taskType: TaskType,
    val images: List<String>? = null,
    val imageUrl: String? = null,
    val videos: List<String>? = null,
    val videoUrl: String? = null,
    val videoInfo: VideoInfo? = null,
    val seed: Long? = null,
    val seeds: List<Long>? = null,
    val model: String? = null,
    val params: GenerationParams? = null,
    val timings: Map<String, Double>? = null,
    val usage: GenerationUsage? = null,
    val warnings: List<String>? = null,
    val files: List<GenerationFile>? = null,
    val userId: String? = null,
    val fileUid: String? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = GenerationResponse(
            storage = map.need("storage") { StorageKind(it as String) },
            taskType = map.need("task_type") { TaskType(it as String) },
            images = map.maybe("images") { (it as List<*>).map { one -> one!! as String } },
            imageUrl = map.maybe("image_url") { it as String },
            videos = map.maybe("videos") { (it as List<*>).map { one -> one!! as String } },
            videoUrl = map.maybe("video_url") { it as String },
            videoInfo = map.maybe("video_info") { VideoInfo.of(it as Map<*, *>) },
            seed = map.maybe("seed") { whole(it) },
            seeds = map.maybe("seeds") { (it as List<*>).map { one -> whole(one!!) } },
            model = map.maybe("model") { it as String },
            params = map.maybe("params") { GenerationParams.of(it as Map<*, *>) },
            timings = map.maybe("timings") { (it as Map<*, *>).entries.associate { one -> (one.key as String) to number(one.value!!) } },
            usage = map.maybe("usage") { GenerationUsage.of(it as Map<*, *>) },
            warnings = map.maybe("warnings") { (it as List<*>).map { one -> one!! as String } },
            files = map.maybe("files") { (it as List<*>).map { one -> GenerationFile.of(one!! as Map<*, *>) } },
            userId = map.maybe("user_id") { it as String },
            fileUid = map.maybe("file_uid") { it as String },
        )
    }
}

/** A finished result, as the document keeps it: of images or of a clip. */
data class GenerationData(
    val storage: StorageKind,
    /** Download URLs; empty where the result went inline. */
    val images: List<String>? = null,
    /** The first of them. */
    val imageUrl: String? = null,
    val videos: List<String>? = null,
    val videoUrl: String? = null,
    val videoInfo: VideoInfo? = null,
    val seed: Long? = null,
    val seeds: List<Long>? = null,
    val model: String? = null,
    val params: GenerationParams? = null,
    /** Seconds of each stage. */
    val timings: Map<String, Double>? = null,
    val usage: GenerationUsage? = null,
    /** What did not go as asked. */
    val warnings: List<String>? = null,
    val files: List<GenerationFile>? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = GenerationData(
            storage = map.need("storage") { StorageKind(it as String) },
            images = map.maybe("images") { (it as List<*>).map { one -> one!! as String } },
            imageUrl = map.maybe("image_url") { it as String },
            videos = map.maybe("videos") { (it as List<*>).map { one -> one!! as String } },
            videoUrl = map.maybe("video_url") { it as String },
            videoInfo = map.maybe("video_info") { VideoInfo.of(it as Map<*, *>) },
            seed = map.maybe("seed") { whole(it) },
            seeds = map.maybe("seeds") { (it as List<*>).map { one -> whole(one!!) } },
            model = map.maybe("model") { it as String },
            params = map.maybe("params") { GenerationParams.of(it as Map<*, *>) },
            timings = map.maybe("timings") { (it as Map<*, *>).entries.associate { one -> (one.key as String) to number(one.value!!) } },
            usage = map.maybe("usage") { GenerationUsage.of(it as Map<*, *>) },
            warnings = map.maybe("warnings") { (it as List<*>).map { one -> one!! as String } },
            files = map.maybe("files") { (it as List<*>).map { one -> GenerationFile.of(one!! as Map<*, *>) } },
        )
    }
}

/** What a document keeps of the request: all of its fields but `id_token`, with placeholders for inline pictures. */
data class RequestData(
    val taskType: TaskType? = null,
    val prompt: String? = null,
    val negativePrompt: String? = null,
    val model: String? = null,
    val style: String? = null,
    val seed: Long? = null,
    /** True: there was no room for the rest. */
    val leftOut: Boolean? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = RequestData(
            taskType = map.maybe("task_type") { TaskType(it as String) },
            prompt = map.maybe("prompt") { it as String },
            negativePrompt = map.maybe("negative_prompt") { it as String },
            model = map.maybe("model") { it as String },
            style = map.maybe("style") { it as String },
            seed = map.maybe("seed") { whole(it) },
            leftOut = map.maybe("left_out") { it as Boolean },
        )
    }
}

/** A job's progress, as RunPod and the document receive it. */
data class GenerationProgress(
    val stage: GenerationStage,
    val step: Long,
    /** Both within the stage. */
    val totalSteps: Long,
    /** Of the whole job; never decreases within an attempt. */
    val percent: Long,
    /** Seconds left; null: not known. */
    val etaSeconds: Long? = null,
    /** Only in the document, and only if requested: a data URI of a WebP of at most 8 KB. */
    val preview: String? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = GenerationProgress(
            stage = map.need("stage") { GenerationStage(it as String) },
            step = map.need("step") { whole(it) },
            totalSteps = map.need("total_steps") { whole(it) },
            percent = map.need("percent") { whole(it) },
            etaSeconds = map.maybe("eta_seconds") { whole(it) },
            preview = map.maybe("preview") { it as String },
        )
    }
}

/** Why a document is `failed`. */
data class GenerationError(
    val code: ErrorCode,
    val message: String,
    val retryable: Boolean,
) {
    companion object {
        fun of(map: Map<*, *>) = GenerationError(
            code = map.need("code") { ErrorCode(it as String) },
            message = map.need("message") { it as String },
            retryable = map.need("retryable") { it as Boolean },
        )
    }
}

/** `generations/{user_id}/files/{file_uid}`; times are the server's. */
data class GenerationDocument(
    val status: GenerationStatus,
    val userId: String? = null,
    val fileUid: String? = null,
    val jobId: String? = null,
    val workerId: String? = null,
    /** Of the worker's log and traces. */
    val traceId: String? = null,
    val attempt: Long? = null,
    val requestData: RequestData? = null,
    val createdAt: Date? = null,
    val updatedAt: Date? = null,
    val completedAt: Date? = null,
    val progress: GenerationProgress? = null,
    val heartbeatAt: Date? = null,
    /** Past it the job is dead. */
    val expiresAt: Date? = null,
    /** From when on it may be deleted, where the operator keeps nothing for ever. */
    val deleteAt: Date? = null,
    val usage: GenerationUsage? = null,
    val generationData: GenerationData? = null,
    val error: GenerationError? = null,
    /** The worker's own. */
    val claim: Map<String, Any>? = null,
    /** The app's, as what follows. */
    val cancelRequested: Boolean? = null,
    val favorite: Boolean? = null,
    val hidden: Boolean? = null,
    val labels: List<String>? = null,
) {
    companion object {
        /** `time` makes a date of what the SDK, or the JSON, has for one. */
        fun of(map: Map<*, *>, time: (Any) -> Date) = GenerationDocument(
            status = map.need("status") { GenerationStatus(it as String) },
            userId = map.maybe("user_id") { it as String },
            fileUid = map.maybe("file_uid") { it as String },
            jobId = map.maybe("job_id") { it as String },
            workerId = map.maybe("worker_id") { it as String },
            traceId = map.maybe("trace_id") { it as String },
            attempt = map.maybe("attempt") { whole(it) },
            requestData = map.maybe("request_data") { RequestData.of(it as Map<*, *>) },
            createdAt = map.maybe("created_at") { time(it) },
            updatedAt = map.maybe("updated_at") { time(it) },
            completedAt = map.maybe("completed_at") { time(it) },
            progress = map.maybe("progress") { GenerationProgress.of(it as Map<*, *>) },
            heartbeatAt = map.maybe("heartbeat_at") { time(it) },
            expiresAt = map.maybe("expires_at") { time(it) },
            deleteAt = map.maybe("delete_at") { time(it) },
            usage = map.maybe("usage") { GenerationUsage.of(it as Map<*, *>) },
            generationData = map.maybe("generation_data") { GenerationData.of(it as Map<*, *>) },
            error = map.maybe("error") { GenerationError.of(it as Map<*, *>) },
            claim = map.maybe("claim") { (it as Map<*, *>).entries.associate { one -> (one.key as String) to one.value!! } },
            cancelRequested = map.maybe("cancel_requested") { it as Boolean },
            favorite = map.maybe("favorite") { it as Boolean },
            hidden = map.maybe("hidden") { it as Boolean },
            labels = map.maybe("labels") { (it as List<*>).map { one -> one!! as String } },
        )
    }
}

/** What a request would cost. */
data class Quote(
    /** On any card. */
    val units: Long,
    val params: GenerationParams,
    /** On this worker's; null: not known yet. */
    val estimatedSeconds: Double? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = Quote(
            units = map.need("units") { whole(it) },
            params = map.need("params") { GenerationParams.of(it as Map<*, *>) },
            estimatedSeconds = map.maybe("estimated_seconds") { number(it) },
        )
    }
}

/** One of the operator's styles. */
data class ServedStyle(
    val name: String,
    val tasks: List<TaskType>,
) {
    companion object {
        fun of(map: Map<*, *>) = ServedStyle(
            name = map.need("name") { it as String },
            tasks = map.need("tasks") { (it as List<*>).map { one -> TaskType(one!! as String) } },
        )
    }
}

/** One of the operator's LoRAs, as far as an app may show it. */
data class ServedLora(
    val name: String,
    val triggerWords: List<String>,
    val family: ModelFamily? = null,
    val licence: String? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = ServedLora(
            name = map.need("name") { it as String },
            triggerWords = map.need("trigger_words") { (it as List<*>).map { one -> one!! as String } },
            family = map.maybe("family") { ModelFamily(it as String) },
            licence = map.maybe("licence") { it as String },
        )
    }
}

/** The names that the fields of sizes take. */
data class SizePresets(
    val imageSize: List<String>,
    val aspectRatio: List<String>,
    val resolution: List<String>,
) {
    companion object {
        fun of(map: Map<*, *>) = SizePresets(
            imageSize = map.need("image_size") { (it as List<*>).map { one -> one!! as String } },
            aspectRatio = map.need("aspect_ratio") { (it as List<*>).map { one -> one!! as String } },
            resolution = map.need("resolution") { (it as List<*>).map { one -> one!! as String } },
        )
    }
}

/** What this worker takes at most. */
data class Limits(
    val promptCharacters: Long,
    val imagePixels: Long,
    val upscaledPixels: Long,
    val jobCost: Long,
    val inputImageBytes: Long,
    val inputImagePixels: Long,
    val resultBytes: Long,
    val jobTimeoutSeconds: Double,
) {
    companion object {
        fun of(map: Map<*, *>) = Limits(
            promptCharacters = map.need("prompt_characters") { whole(it) },
            imagePixels = map.need("image_pixels") { whole(it) },
            upscaledPixels = map.need("upscaled_pixels") { whole(it) },
            jobCost = map.need("job_cost") { whole(it) },
            inputImageBytes = map.need("input_image_bytes") { whole(it) },
            inputImagePixels = map.need("input_image_pixels") { whole(it) },
            resultBytes = map.need("result_bytes") { whole(it) },
            jobTimeoutSeconds = map.need("job_timeout_seconds") { number(it) },
        )
    }
}

/** Of the contract, the worker and the fingerprint of requests. */
data class Versions(
    val contract: Long,
    val worker: String,
    val fingerprint: String,
) {
    companion object {
        fun of(map: Map<*, *>) = Versions(
            contract = map.need("contract") { whole(it) },
            worker = map.need("worker") { it as String },
            fingerprint = map.need("fingerprint") { it as String },
        )
    }
}

/** What a worker serves. */
data class Capabilities(
    val tasks: List<TaskType>,
    /** For each task, the default first. */
    val models: Map<String, List<ServedModel>>,
    val styles: List<ServedStyle>,
    val loras: List<ServedLora>,
    val controlnetTypes: List<String>,
    val upscaleFactors: List<Long>,
    val sizePresets: SizePresets,
    val schedulers: List<Scheduler>,
    val outputFormats: List<OutputFormat>,
    /** Whether documents show what is being made. */
    val preview: Boolean,
    val limits: Limits,
    val versions: Versions,
) {
    companion object {
        fun of(map: Map<*, *>) = Capabilities(
            tasks = map.need("tasks") { (it as List<*>).map { one -> TaskType(one!! as String) } },
            models = map.need("models") { (it as Map<*, *>).entries.associate { one -> (one.key as String) to ((one.value!! as List<*>).map { one -> ServedModel.of(one!! as Map<*, *>) }) } },
            styles = map.need("styles") { (it as List<*>).map { one -> ServedStyle.of(one!! as Map<*, *>) } },
            loras = map.need("loras") { (it as List<*>).map { one -> ServedLora.of(one!! as Map<*, *>) } },
            controlnetTypes = map.need("controlnet_types") { (it as List<*>).map { one -> one!! as String } },
            upscaleFactors = map.need("upscale_factors") { (it as List<*>).map { one -> whole(one!!) } },
            sizePresets = map.need("size_presets") { SizePresets.of(it as Map<*, *>) },
            schedulers = map.need("schedulers") { (it as List<*>).map { one -> Scheduler(one!! as String) } },
            outputFormats = map.need("output_formats") { (it as List<*>).map { one -> OutputFormat(one!! as String) } },
            preview = map.need("preview") { it as Boolean },
            limits = map.need("limits") { Limits.of(it as Map<*, *>) },
            versions = map.need("versions") { Versions.of(it as Map<*, *>) },
        )
    }
}

/** A model that serves a task; the fields of images and those of clips are the other's `NotRequired`. */
data class ServedModel(
    val name: String,
    val width: Long,
    val height: Long,
    val sizeMultiple: Long,
    val numInferenceSteps: Long,
    val guidanceScale: Double,
    val fewSteps: Boolean,
    val accelerations: List<AccelerationLevel>,
    /** Width and height of each. */
    val aspectRatios: Map<String, List<Long>>,
    /** null: its own. */
    val scheduler: String? = null,
    val schedulers: List<Scheduler>? = null,
    val hasRefiner: Boolean? = null,
    val hasIpAdapter: Boolean? = null,
    val makesDepth: Boolean? = null,
    /** null: Lanczos. */
    val upscaler: String? = null,
    val imageSizes: Map<String, List<Long>>? = null,
    val numFrames: Long? = null,
    val fps: Long? = null,
    val endImage: EndImage? = null,
) {
    companion object {
        fun of(map: Map<*, *>) = ServedModel(
            name = map.need("name") { it as String },
            width = map.need("width") { whole(it) },
            height = map.need("height") { whole(it) },
            sizeMultiple = map.need("size_multiple") { whole(it) },
            numInferenceSteps = map.need("num_inference_steps") { whole(it) },
            guidanceScale = map.need("guidance_scale") { number(it) },
            fewSteps = map.need("few_steps") { it as Boolean },
            accelerations = map.need("accelerations") { (it as List<*>).map { one -> AccelerationLevel(one!! as String) } },
            aspectRatios = map.need("aspect_ratios") { (it as Map<*, *>).entries.associate { one -> (one.key as String) to ((one.value!! as List<*>).map { one -> whole(one!!) }) } },
            scheduler = map.maybe("scheduler") { it as String },
            schedulers = map.maybe("schedulers") { (it as List<*>).map { one -> Scheduler(one!! as String) } },
            hasRefiner = map.maybe("has_refiner") { it as Boolean },
            hasIpAdapter = map.maybe("has_ip_adapter") { it as Boolean },
            makesDepth = map.maybe("makes_depth") { it as Boolean },
            upscaler = map.maybe("upscaler") { it as String },
            imageSizes = map.maybe("image_sizes") { (it as Map<*, *>).entries.associate { one -> (one.key as String) to ((one.value!! as List<*>).map { one -> whole(one!!) }) } },
            numFrames = map.maybe("num_frames") { whole(it) },
            fps = map.maybe("fps") { whole(it) },
            endImage = map.maybe("end_image") { EndImage(it as String) },
        )
    }
}
