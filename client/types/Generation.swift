// Made by `python -m tools.schema` from the schemas in schema/: change those, not this.
//
// Read a document with `snapshot.data(as: GenerationDocument.self)` (FirebaseFirestore), an answer with JSONDecoder.
// Words may be some that this version does not know: compare them (`document.status == .completed`), with a default.

import Foundation

/// A job: what the worker takes.
public protocol GenerationRequest: Encodable, Sendable {
    var taskType: TaskType { get }
}

public struct Acceleration: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let none = Acceleration(rawValue: "none")
    public static let regular = Acceleration(rawValue: "regular")
    public static let high = Acceleration(rawValue: "high")
}

public struct AccelerationLevel: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let regular = AccelerationLevel(rawValue: "regular")
    public static let high = AccelerationLevel(rawValue: "high")
}

public struct AspectRatio: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let x21To9 = AspectRatio(rawValue: "21:9")
    public static let x16To9 = AspectRatio(rawValue: "16:9")
    public static let x3To2 = AspectRatio(rawValue: "3:2")
    public static let x4To3 = AspectRatio(rawValue: "4:3")
    public static let x5To4 = AspectRatio(rawValue: "5:4")
    public static let x1To1 = AspectRatio(rawValue: "1:1")
    public static let x4To5 = AspectRatio(rawValue: "4:5")
    public static let x3To4 = AspectRatio(rawValue: "3:4")
    public static let x2To3 = AspectRatio(rawValue: "2:3")
    public static let x9To16 = AspectRatio(rawValue: "9:16")
    public static let x9To21 = AspectRatio(rawValue: "9:21")
}

public struct ControlType: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let canny = ControlType(rawValue: "canny")
    public static let depth = ControlType(rawValue: "depth")
    public static let openpose = ControlType(rawValue: "openpose")
    public static let scribble = ControlType(rawValue: "scribble")
    public static let lineart = ControlType(rawValue: "lineart")
    public static let softedge = ControlType(rawValue: "softedge")
    public static let tile = ControlType(rawValue: "tile")
    public static let segment = ControlType(rawValue: "segment")
    public static let normal = ControlType(rawValue: "normal")
}

public struct EndImage: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let no = EndImage(rawValue: "no")
    public static let optional = EndImage(rawValue: "optional")
    public static let required = EndImage(rawValue: "required")
}

public struct ErrorCode: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let cancelled = ErrorCode(rawValue: "cancelled")
    public static let deleted = ErrorCode(rawValue: "deleted")
    public static let diskFull = ErrorCode(rawValue: "disk_full")
    public static let downloadFailed = ErrorCode(rawValue: "download_failed")
    public static let duplicateInProgress = ErrorCode(rawValue: "duplicate_in_progress")
    public static let forbidden = ErrorCode(rawValue: "forbidden")
    public static let gpuFault = ErrorCode(rawValue: "gpu_fault")
    public static let idempotencyMismatch = ErrorCode(rawValue: "idempotency_mismatch")
    public static let `internal` = ErrorCode(rawValue: "internal")
    public static let invalidImage = ErrorCode(rawValue: "invalid_image")
    public static let invalidInput = ErrorCode(rawValue: "invalid_input")
    public static let modelUnavailable = ErrorCode(rawValue: "model_unavailable")
    public static let outOfMemory = ErrorCode(rawValue: "out_of_memory")
    public static let poisonJob = ErrorCode(rawValue: "poison_job")
    public static let resultTooLarge = ErrorCode(rawValue: "result_too_large")
    public static let storageUnavailable = ErrorCode(rawValue: "storage_unavailable")
    public static let superseded = ErrorCode(rawValue: "superseded")
    public static let timeout = ErrorCode(rawValue: "timeout")
    public static let unauthenticated = ErrorCode(rawValue: "unauthenticated")
    public static let urlBlocked = ErrorCode(rawValue: "url_blocked")
    public static let workerLost = ErrorCode(rawValue: "worker_lost")
}

public struct GenerationStage: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let queued = GenerationStage(rawValue: "queued")
    public static let loading = GenerationStage(rawValue: "loading")
    public static let generating = GenerationStage(rawValue: "generating")
    public static let uploading = GenerationStage(rawValue: "uploading")
}

public struct GenerationStatus: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let queued = GenerationStatus(rawValue: "queued")
    public static let processing = GenerationStatus(rawValue: "processing")
    public static let completed = GenerationStatus(rawValue: "completed")
    public static let failed = GenerationStatus(rawValue: "failed")
}

public struct ImageSizeName: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let squareHd = ImageSizeName(rawValue: "square_hd")
    public static let square = ImageSizeName(rawValue: "square")
    public static let portrait43 = ImageSizeName(rawValue: "portrait_4_3")
    public static let portrait169 = ImageSizeName(rawValue: "portrait_16_9")
    public static let landscape43 = ImageSizeName(rawValue: "landscape_4_3")
    public static let landscape169 = ImageSizeName(rawValue: "landscape_16_9")
}

public struct InpaintArea: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let whole = InpaintArea(rawValue: "whole")
    public static let masked = InpaintArea(rawValue: "masked")
}

public struct ModelFamily: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let sdxl = ModelFamily(rawValue: "sdxl")
    public static let wan = ModelFamily(rawValue: "wan")
}

public struct OutputFormat: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let png = OutputFormat(rawValue: "png")
    public static let jpeg = OutputFormat(rawValue: "jpeg")
    public static let webp = OutputFormat(rawValue: "webp")
}

public struct QuantizedKind: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let int8 = QuantizedKind(rawValue: "int8")
    public static let fp8 = QuantizedKind(rawValue: "fp8")
}

public struct ReferenceType: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let subject = ReferenceType(rawValue: "subject")
    public static let style = ReferenceType(rawValue: "style")
}

public struct Resolution: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let x480p = Resolution(rawValue: "480p")
    public static let x720p = Resolution(rawValue: "720p")
}

public struct Scheduler: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let ddim = Scheduler(rawValue: "DDIM")
    public static let pndm = Scheduler(rawValue: "PNDM")
    public static let klms = Scheduler(rawValue: "KLMS")
    public static let kEuler = Scheduler(rawValue: "K_EULER")
    public static let kEulerAncestral = Scheduler(rawValue: "K_EULER_ANCESTRAL")
    public static let dPMSolverMultistep = Scheduler(rawValue: "DPMSolverMultistep")
    public static let dPMSolverSinglestep = Scheduler(rawValue: "DPMSolverSinglestep")
    public static let dPMSolverMultistepKarras = Scheduler(rawValue: "DPMSolverMultistepKarras")
    public static let dPMSolverSDEMultistepKarras = Scheduler(rawValue: "DPMSolverSDEMultistepKarras")
    public static let heun = Scheduler(rawValue: "HEUN")
    public static let uniPC = Scheduler(rawValue: "UniPC")
    public static let lcm = Scheduler(rawValue: "LCM")
    public static let tcd = Scheduler(rawValue: "TCD")
    public static let kEulerTrailing = Scheduler(rawValue: "K_EULER_TRAILING")
}

public struct StepCacheKind: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let firstBlock = StepCacheKind(rawValue: "first_block")
    public static let sea = StepCacheKind(rawValue: "sea")
}

public struct StorageKind: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let firebase = StorageKind(rawValue: "firebase")
    public static let base64 = StorageKind(rawValue: "base64")
}

public struct TaskType: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let text2img = TaskType(rawValue: "text2img")
    public static let img2img = TaskType(rawValue: "img2img")
    public static let inpaint = TaskType(rawValue: "inpaint")
    public static let upscale = TaskType(rawValue: "upscale")
    public static let text2video = TaskType(rawValue: "text2video")
    public static let img2video = TaskType(rawValue: "img2video")
}

public struct VideoQuality: RawRepresentable, Codable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public static let low = VideoQuality(rawValue: "low")
    public static let medium = VideoQuality(rawValue: "medium")
    public static let high = VideoQuality(rawValue: "high")
    public static let maximum = VideoQuality(rawValue: "maximum")
}

/// A picture that controls the composition of the result.
public struct ControlNet: Encodable, Sendable {
    public var type: ControlType
    public var imageUrl: String
    public var preprocess: Bool?
    public var conditioningScale: Double?
    public var startPercentage: Double?
    public var endPercentage: Double?

    public init(
        type: ControlType,
        imageUrl: String,
        preprocess: Bool? = nil,
        conditioningScale: Double? = nil,
        startPercentage: Double? = nil,
        endPercentage: Double? = nil
    ) {
        self.type = type
        self.imageUrl = imageUrl
        self.preprocess = preprocess
        self.conditioningScale = conditioningScale
        self.startPercentage = startPercentage
        self.endPercentage = endPercentage
    }

    private enum CodingKeys: String, CodingKey {
        case type = "type"
        case imageUrl = "image_url"
        case preprocess = "preprocess"
        case conditioningScale = "conditioning_scale"
        case startPercentage = "start_percentage"
        case endPercentage = "end_percentage"
    }
}

/// Low-rank weights that are added to the model's own.
public struct Lora: Encodable, Sendable {
    public var path: String
    public var scale: Double?
    public var weightName: String?

    public init(
        path: String,
        scale: Double? = nil,
        weightName: String? = nil
    ) {
        self.path = path
        self.scale = scale
        self.weightName = weightName
    }

    private enum CodingKeys: String, CodingKey {
        case path = "path"
        case scale = "scale"
        case weightName = "weight_name"
    }
}

/// A picture whose subject or style the result takes on.
public struct IpAdapter: Encodable, Sendable {
    public var imageUrl: String
    public var scale: Double?
    public var type: ReferenceType?

    public init(
        imageUrl: String,
        scale: Double? = nil,
        type: ReferenceType? = nil
    ) {
        self.imageUrl = imageUrl
        self.scale = scale
        self.type = type
    }

    private enum CodingKeys: String, CodingKey {
        case imageUrl = "image_url"
        case scale = "scale"
        case type = "type"
    }
}

/// Images from a picture and a prompt.
public struct Img2ImgRequest: GenerationRequest {
    public var prompt: String
    public var negativePrompt: String?
    public var promptWeighting: Bool?
    public var style: String?
    public var model: String?
    public var seed: Int?
    public var numInferenceSteps: Int?
    public var acceleration: Acceleration?
    public var userId: String?
    public var fileUid: String?
    public var useCloudStorage: Bool?
    public var preview: Bool?
    public var idToken: String?
    public var outputFormat: OutputFormat?
    public var outputQuality: Int?
    public var upscaleFactor: Int?
    public var upscaleCreativity: Double?
    public var width: Int?
    public var height: Int?
    public var imageSize: ImageSizeName?
    public var aspectRatio: AspectRatio?
    public var numImages: Int?
    public var guidanceScale: Double?
    public var scheduler: Scheduler?
    public var loras: [Lora]?
    public var controlnets: [ControlNet]?
    public var ipAdapters: [IpAdapter]?
    public var highNoiseFrac: Double?
    public var refinerInferenceSteps: Int?
    public let taskType = TaskType.img2img
    public var imageUrl: String
    public var strength: Double?

    public init(
        prompt: String,
        imageUrl: String,
        negativePrompt: String? = nil,
        promptWeighting: Bool? = nil,
        style: String? = nil,
        model: String? = nil,
        seed: Int? = nil,
        numInferenceSteps: Int? = nil,
        acceleration: Acceleration? = nil,
        userId: String? = nil,
        fileUid: String? = nil,
        useCloudStorage: Bool? = nil,
        preview: Bool? = nil,
        idToken: String? = nil,
        outputFormat: OutputFormat? = nil,
        outputQuality: Int? = nil,
        upscaleFactor: Int? = nil,
        upscaleCreativity: Double? = nil,
        width: Int? = nil,
        height: Int? = nil,
        imageSize: ImageSizeName? = nil,
        aspectRatio: AspectRatio? = nil,
        numImages: Int? = nil,
        guidanceScale: Double? = nil,
        scheduler: Scheduler? = nil,
        loras: [Lora]? = nil,
        controlnets: [ControlNet]? = nil,
        ipAdapters: [IpAdapter]? = nil,
        highNoiseFrac: Double? = nil,
        refinerInferenceSteps: Int? = nil,
        strength: Double? = nil
    ) {
        self.prompt = prompt
        self.imageUrl = imageUrl
        self.negativePrompt = negativePrompt
        self.promptWeighting = promptWeighting
        self.style = style
        self.model = model
        self.seed = seed
        self.numInferenceSteps = numInferenceSteps
        self.acceleration = acceleration
        self.userId = userId
        self.fileUid = fileUid
        self.useCloudStorage = useCloudStorage
        self.preview = preview
        self.idToken = idToken
        self.outputFormat = outputFormat
        self.outputQuality = outputQuality
        self.upscaleFactor = upscaleFactor
        self.upscaleCreativity = upscaleCreativity
        self.width = width
        self.height = height
        self.imageSize = imageSize
        self.aspectRatio = aspectRatio
        self.numImages = numImages
        self.guidanceScale = guidanceScale
        self.scheduler = scheduler
        self.loras = loras
        self.controlnets = controlnets
        self.ipAdapters = ipAdapters
        self.highNoiseFrac = highNoiseFrac
        self.refinerInferenceSteps = refinerInferenceSteps
        self.strength = strength
    }

    private enum CodingKeys: String, CodingKey {
        case prompt = "prompt"
        case negativePrompt = "negative_prompt"
        case promptWeighting = "prompt_weighting"
        case style = "style"
        case model = "model"
        case seed = "seed"
        case numInferenceSteps = "num_inference_steps"
        case acceleration = "acceleration"
        case userId = "user_id"
        case fileUid = "file_uid"
        case useCloudStorage = "use_cloud_storage"
        case preview = "preview"
        case idToken = "id_token"
        case outputFormat = "output_format"
        case outputQuality = "output_quality"
        case upscaleFactor = "upscale_factor"
        case upscaleCreativity = "upscale_creativity"
        case width = "width"
        case height = "height"
        case imageSize = "image_size"
        case aspectRatio = "aspect_ratio"
        case numImages = "num_images"
        case guidanceScale = "guidance_scale"
        case scheduler = "scheduler"
        case loras = "loras"
        case controlnets = "controlnets"
        case ipAdapters = "ip_adapters"
        case highNoiseFrac = "high_noise_frac"
        case refinerInferenceSteps = "refiner_inference_steps"
        case taskType = "task_type"
        case imageUrl = "image_url"
        case strength = "strength"
    }
}

/// A clip that starts from a picture, and may end with one.
public struct Img2VideoRequest: GenerationRequest {
    public var prompt: String
    public var negativePrompt: String?
    public var promptWeighting: Bool?
    public var style: String?
    public var model: String?
    public var seed: Int?
    public var numInferenceSteps: Int?
    public var acceleration: Acceleration?
    public var userId: String?
    public var fileUid: String?
    public var useCloudStorage: Bool?
    public var preview: Bool?
    public var idToken: String?
    public var videoWidth: Int?
    public var videoHeight: Int?
    public var aspectRatio: AspectRatio?
    public var resolution: Resolution?
    public var duration: Double?
    public var numFrames: Int?
    public var fps: Int?
    public var videoGuidanceScale: Double?
    public var flowShift: Double?
    public var videoQuality: VideoQuality?
    public var loras: [Lora]?
    public var highNoiseLoras: [Lora]?
    public var lowNoiseLoras: [Lora]?
    public let taskType = TaskType.img2video
    public var imageUrl: String
    public var endImageUrl: String?

    public init(
        prompt: String,
        imageUrl: String,
        negativePrompt: String? = nil,
        promptWeighting: Bool? = nil,
        style: String? = nil,
        model: String? = nil,
        seed: Int? = nil,
        numInferenceSteps: Int? = nil,
        acceleration: Acceleration? = nil,
        userId: String? = nil,
        fileUid: String? = nil,
        useCloudStorage: Bool? = nil,
        preview: Bool? = nil,
        idToken: String? = nil,
        videoWidth: Int? = nil,
        videoHeight: Int? = nil,
        aspectRatio: AspectRatio? = nil,
        resolution: Resolution? = nil,
        duration: Double? = nil,
        numFrames: Int? = nil,
        fps: Int? = nil,
        videoGuidanceScale: Double? = nil,
        flowShift: Double? = nil,
        videoQuality: VideoQuality? = nil,
        loras: [Lora]? = nil,
        highNoiseLoras: [Lora]? = nil,
        lowNoiseLoras: [Lora]? = nil,
        endImageUrl: String? = nil
    ) {
        self.prompt = prompt
        self.imageUrl = imageUrl
        self.negativePrompt = negativePrompt
        self.promptWeighting = promptWeighting
        self.style = style
        self.model = model
        self.seed = seed
        self.numInferenceSteps = numInferenceSteps
        self.acceleration = acceleration
        self.userId = userId
        self.fileUid = fileUid
        self.useCloudStorage = useCloudStorage
        self.preview = preview
        self.idToken = idToken
        self.videoWidth = videoWidth
        self.videoHeight = videoHeight
        self.aspectRatio = aspectRatio
        self.resolution = resolution
        self.duration = duration
        self.numFrames = numFrames
        self.fps = fps
        self.videoGuidanceScale = videoGuidanceScale
        self.flowShift = flowShift
        self.videoQuality = videoQuality
        self.loras = loras
        self.highNoiseLoras = highNoiseLoras
        self.lowNoiseLoras = lowNoiseLoras
        self.endImageUrl = endImageUrl
    }

    private enum CodingKeys: String, CodingKey {
        case prompt = "prompt"
        case negativePrompt = "negative_prompt"
        case promptWeighting = "prompt_weighting"
        case style = "style"
        case model = "model"
        case seed = "seed"
        case numInferenceSteps = "num_inference_steps"
        case acceleration = "acceleration"
        case userId = "user_id"
        case fileUid = "file_uid"
        case useCloudStorage = "use_cloud_storage"
        case preview = "preview"
        case idToken = "id_token"
        case videoWidth = "video_width"
        case videoHeight = "video_height"
        case aspectRatio = "aspect_ratio"
        case resolution = "resolution"
        case duration = "duration"
        case numFrames = "num_frames"
        case fps = "fps"
        case videoGuidanceScale = "video_guidance_scale"
        case flowShift = "flow_shift"
        case videoQuality = "video_quality"
        case loras = "loras"
        case highNoiseLoras = "high_noise_loras"
        case lowNoiseLoras = "low_noise_loras"
        case taskType = "task_type"
        case imageUrl = "image_url"
        case endImageUrl = "end_image_url"
    }
}

/// How many pixels the canvas grows on each side.
public struct Outpaint: Encodable, Sendable {
    public var left: Int?
    public var right: Int?
    public var up: Int?
    public var down: Int?

    public init(
        left: Int? = nil,
        right: Int? = nil,
        up: Int? = nil,
        down: Int? = nil
    ) {
        self.left = left
        self.right = right
        self.up = up
        self.down = down
    }

    private enum CodingKeys: String, CodingKey {
        case left = "left"
        case right = "right"
        case up = "up"
        case down = "down"
    }
}

/// A part of a picture, drawn again: white in the mask is repainted, grey in proportion.
public struct InpaintRequest: GenerationRequest {
    public var prompt: String
    public var negativePrompt: String?
    public var promptWeighting: Bool?
    public var style: String?
    public var model: String?
    public var seed: Int?
    public var numInferenceSteps: Int?
    public var acceleration: Acceleration?
    public var userId: String?
    public var fileUid: String?
    public var useCloudStorage: Bool?
    public var preview: Bool?
    public var idToken: String?
    public var outputFormat: OutputFormat?
    public var outputQuality: Int?
    public var upscaleFactor: Int?
    public var upscaleCreativity: Double?
    public var width: Int?
    public var height: Int?
    public var imageSize: ImageSizeName?
    public var aspectRatio: AspectRatio?
    public var numImages: Int?
    public var guidanceScale: Double?
    public var scheduler: Scheduler?
    public var loras: [Lora]?
    public var controlnets: [ControlNet]?
    public var ipAdapters: [IpAdapter]?
    public var highNoiseFrac: Double?
    public var refinerInferenceSteps: Int?
    public let taskType = TaskType.inpaint
    public var imageUrl: String
    public var outpaint: Outpaint?
    public var maskUrl: String?
    public var maskBlur: Double?
    public var inpaintArea: InpaintArea?
    public var strength: Double?

    public init(
        prompt: String,
        imageUrl: String,
        negativePrompt: String? = nil,
        promptWeighting: Bool? = nil,
        style: String? = nil,
        model: String? = nil,
        seed: Int? = nil,
        numInferenceSteps: Int? = nil,
        acceleration: Acceleration? = nil,
        userId: String? = nil,
        fileUid: String? = nil,
        useCloudStorage: Bool? = nil,
        preview: Bool? = nil,
        idToken: String? = nil,
        outputFormat: OutputFormat? = nil,
        outputQuality: Int? = nil,
        upscaleFactor: Int? = nil,
        upscaleCreativity: Double? = nil,
        width: Int? = nil,
        height: Int? = nil,
        imageSize: ImageSizeName? = nil,
        aspectRatio: AspectRatio? = nil,
        numImages: Int? = nil,
        guidanceScale: Double? = nil,
        scheduler: Scheduler? = nil,
        loras: [Lora]? = nil,
        controlnets: [ControlNet]? = nil,
        ipAdapters: [IpAdapter]? = nil,
        highNoiseFrac: Double? = nil,
        refinerInferenceSteps: Int? = nil,
        outpaint: Outpaint? = nil,
        maskUrl: String? = nil,
        maskBlur: Double? = nil,
        inpaintArea: InpaintArea? = nil,
        strength: Double? = nil
    ) {
        self.prompt = prompt
        self.imageUrl = imageUrl
        self.negativePrompt = negativePrompt
        self.promptWeighting = promptWeighting
        self.style = style
        self.model = model
        self.seed = seed
        self.numInferenceSteps = numInferenceSteps
        self.acceleration = acceleration
        self.userId = userId
        self.fileUid = fileUid
        self.useCloudStorage = useCloudStorage
        self.preview = preview
        self.idToken = idToken
        self.outputFormat = outputFormat
        self.outputQuality = outputQuality
        self.upscaleFactor = upscaleFactor
        self.upscaleCreativity = upscaleCreativity
        self.width = width
        self.height = height
        self.imageSize = imageSize
        self.aspectRatio = aspectRatio
        self.numImages = numImages
        self.guidanceScale = guidanceScale
        self.scheduler = scheduler
        self.loras = loras
        self.controlnets = controlnets
        self.ipAdapters = ipAdapters
        self.highNoiseFrac = highNoiseFrac
        self.refinerInferenceSteps = refinerInferenceSteps
        self.outpaint = outpaint
        self.maskUrl = maskUrl
        self.maskBlur = maskBlur
        self.inpaintArea = inpaintArea
        self.strength = strength
    }

    private enum CodingKeys: String, CodingKey {
        case prompt = "prompt"
        case negativePrompt = "negative_prompt"
        case promptWeighting = "prompt_weighting"
        case style = "style"
        case model = "model"
        case seed = "seed"
        case numInferenceSteps = "num_inference_steps"
        case acceleration = "acceleration"
        case userId = "user_id"
        case fileUid = "file_uid"
        case useCloudStorage = "use_cloud_storage"
        case preview = "preview"
        case idToken = "id_token"
        case outputFormat = "output_format"
        case outputQuality = "output_quality"
        case upscaleFactor = "upscale_factor"
        case upscaleCreativity = "upscale_creativity"
        case width = "width"
        case height = "height"
        case imageSize = "image_size"
        case aspectRatio = "aspect_ratio"
        case numImages = "num_images"
        case guidanceScale = "guidance_scale"
        case scheduler = "scheduler"
        case loras = "loras"
        case controlnets = "controlnets"
        case ipAdapters = "ip_adapters"
        case highNoiseFrac = "high_noise_frac"
        case refinerInferenceSteps = "refiner_inference_steps"
        case taskType = "task_type"
        case imageUrl = "image_url"
        case outpaint = "outpaint"
        case maskUrl = "mask_url"
        case maskBlur = "mask_blur"
        case inpaintArea = "inpaint_area"
        case strength = "strength"
    }
}

/// Images from a prompt.
public struct Text2ImgRequest: GenerationRequest {
    public var prompt: String
    public var negativePrompt: String?
    public var promptWeighting: Bool?
    public var style: String?
    public var model: String?
    public var seed: Int?
    public var numInferenceSteps: Int?
    public var acceleration: Acceleration?
    public var userId: String?
    public var fileUid: String?
    public var useCloudStorage: Bool?
    public var preview: Bool?
    public var idToken: String?
    public var outputFormat: OutputFormat?
    public var outputQuality: Int?
    public var upscaleFactor: Int?
    public var upscaleCreativity: Double?
    public var width: Int?
    public var height: Int?
    public var imageSize: ImageSizeName?
    public var aspectRatio: AspectRatio?
    public var numImages: Int?
    public var guidanceScale: Double?
    public var scheduler: Scheduler?
    public var loras: [Lora]?
    public var controlnets: [ControlNet]?
    public var ipAdapters: [IpAdapter]?
    public var highNoiseFrac: Double?
    public var refinerInferenceSteps: Int?
    public let taskType = TaskType.text2img

    public init(
        prompt: String,
        negativePrompt: String? = nil,
        promptWeighting: Bool? = nil,
        style: String? = nil,
        model: String? = nil,
        seed: Int? = nil,
        numInferenceSteps: Int? = nil,
        acceleration: Acceleration? = nil,
        userId: String? = nil,
        fileUid: String? = nil,
        useCloudStorage: Bool? = nil,
        preview: Bool? = nil,
        idToken: String? = nil,
        outputFormat: OutputFormat? = nil,
        outputQuality: Int? = nil,
        upscaleFactor: Int? = nil,
        upscaleCreativity: Double? = nil,
        width: Int? = nil,
        height: Int? = nil,
        imageSize: ImageSizeName? = nil,
        aspectRatio: AspectRatio? = nil,
        numImages: Int? = nil,
        guidanceScale: Double? = nil,
        scheduler: Scheduler? = nil,
        loras: [Lora]? = nil,
        controlnets: [ControlNet]? = nil,
        ipAdapters: [IpAdapter]? = nil,
        highNoiseFrac: Double? = nil,
        refinerInferenceSteps: Int? = nil
    ) {
        self.prompt = prompt
        self.negativePrompt = negativePrompt
        self.promptWeighting = promptWeighting
        self.style = style
        self.model = model
        self.seed = seed
        self.numInferenceSteps = numInferenceSteps
        self.acceleration = acceleration
        self.userId = userId
        self.fileUid = fileUid
        self.useCloudStorage = useCloudStorage
        self.preview = preview
        self.idToken = idToken
        self.outputFormat = outputFormat
        self.outputQuality = outputQuality
        self.upscaleFactor = upscaleFactor
        self.upscaleCreativity = upscaleCreativity
        self.width = width
        self.height = height
        self.imageSize = imageSize
        self.aspectRatio = aspectRatio
        self.numImages = numImages
        self.guidanceScale = guidanceScale
        self.scheduler = scheduler
        self.loras = loras
        self.controlnets = controlnets
        self.ipAdapters = ipAdapters
        self.highNoiseFrac = highNoiseFrac
        self.refinerInferenceSteps = refinerInferenceSteps
    }

    private enum CodingKeys: String, CodingKey {
        case prompt = "prompt"
        case negativePrompt = "negative_prompt"
        case promptWeighting = "prompt_weighting"
        case style = "style"
        case model = "model"
        case seed = "seed"
        case numInferenceSteps = "num_inference_steps"
        case acceleration = "acceleration"
        case userId = "user_id"
        case fileUid = "file_uid"
        case useCloudStorage = "use_cloud_storage"
        case preview = "preview"
        case idToken = "id_token"
        case outputFormat = "output_format"
        case outputQuality = "output_quality"
        case upscaleFactor = "upscale_factor"
        case upscaleCreativity = "upscale_creativity"
        case width = "width"
        case height = "height"
        case imageSize = "image_size"
        case aspectRatio = "aspect_ratio"
        case numImages = "num_images"
        case guidanceScale = "guidance_scale"
        case scheduler = "scheduler"
        case loras = "loras"
        case controlnets = "controlnets"
        case ipAdapters = "ip_adapters"
        case highNoiseFrac = "high_noise_frac"
        case refinerInferenceSteps = "refiner_inference_steps"
        case taskType = "task_type"
    }
}

/// A clip from a prompt.
public struct Text2VideoRequest: GenerationRequest {
    public var prompt: String
    public var negativePrompt: String?
    public var promptWeighting: Bool?
    public var style: String?
    public var model: String?
    public var seed: Int?
    public var numInferenceSteps: Int?
    public var acceleration: Acceleration?
    public var userId: String?
    public var fileUid: String?
    public var useCloudStorage: Bool?
    public var preview: Bool?
    public var idToken: String?
    public var videoWidth: Int?
    public var videoHeight: Int?
    public var aspectRatio: AspectRatio?
    public var resolution: Resolution?
    public var duration: Double?
    public var numFrames: Int?
    public var fps: Int?
    public var videoGuidanceScale: Double?
    public var flowShift: Double?
    public var videoQuality: VideoQuality?
    public var loras: [Lora]?
    public var highNoiseLoras: [Lora]?
    public var lowNoiseLoras: [Lora]?
    public let taskType = TaskType.text2video

    public init(
        prompt: String,
        negativePrompt: String? = nil,
        promptWeighting: Bool? = nil,
        style: String? = nil,
        model: String? = nil,
        seed: Int? = nil,
        numInferenceSteps: Int? = nil,
        acceleration: Acceleration? = nil,
        userId: String? = nil,
        fileUid: String? = nil,
        useCloudStorage: Bool? = nil,
        preview: Bool? = nil,
        idToken: String? = nil,
        videoWidth: Int? = nil,
        videoHeight: Int? = nil,
        aspectRatio: AspectRatio? = nil,
        resolution: Resolution? = nil,
        duration: Double? = nil,
        numFrames: Int? = nil,
        fps: Int? = nil,
        videoGuidanceScale: Double? = nil,
        flowShift: Double? = nil,
        videoQuality: VideoQuality? = nil,
        loras: [Lora]? = nil,
        highNoiseLoras: [Lora]? = nil,
        lowNoiseLoras: [Lora]? = nil
    ) {
        self.prompt = prompt
        self.negativePrompt = negativePrompt
        self.promptWeighting = promptWeighting
        self.style = style
        self.model = model
        self.seed = seed
        self.numInferenceSteps = numInferenceSteps
        self.acceleration = acceleration
        self.userId = userId
        self.fileUid = fileUid
        self.useCloudStorage = useCloudStorage
        self.preview = preview
        self.idToken = idToken
        self.videoWidth = videoWidth
        self.videoHeight = videoHeight
        self.aspectRatio = aspectRatio
        self.resolution = resolution
        self.duration = duration
        self.numFrames = numFrames
        self.fps = fps
        self.videoGuidanceScale = videoGuidanceScale
        self.flowShift = flowShift
        self.videoQuality = videoQuality
        self.loras = loras
        self.highNoiseLoras = highNoiseLoras
        self.lowNoiseLoras = lowNoiseLoras
    }

    private enum CodingKeys: String, CodingKey {
        case prompt = "prompt"
        case negativePrompt = "negative_prompt"
        case promptWeighting = "prompt_weighting"
        case style = "style"
        case model = "model"
        case seed = "seed"
        case numInferenceSteps = "num_inference_steps"
        case acceleration = "acceleration"
        case userId = "user_id"
        case fileUid = "file_uid"
        case useCloudStorage = "use_cloud_storage"
        case preview = "preview"
        case idToken = "id_token"
        case videoWidth = "video_width"
        case videoHeight = "video_height"
        case aspectRatio = "aspect_ratio"
        case resolution = "resolution"
        case duration = "duration"
        case numFrames = "num_frames"
        case fps = "fps"
        case videoGuidanceScale = "video_guidance_scale"
        case flowShift = "flow_shift"
        case videoQuality = "video_quality"
        case loras = "loras"
        case highNoiseLoras = "high_noise_loras"
        case lowNoiseLoras = "low_noise_loras"
        case taskType = "task_type"
    }
}

/// A picture, enlarged.
public struct UpscaleRequest: GenerationRequest {
    public var prompt: String?
    public var negativePrompt: String?
    public var promptWeighting: Bool?
    public var style: String?
    public var model: String?
    public var seed: Int?
    public var numInferenceSteps: Int?
    public var acceleration: Acceleration?
    public var userId: String?
    public var fileUid: String?
    public var useCloudStorage: Bool?
    public var preview: Bool?
    public var idToken: String?
    public var outputFormat: OutputFormat?
    public var outputQuality: Int?
    public var upscaleFactor: Int
    public var upscaleCreativity: Double?
    public let taskType = TaskType.upscale
    public var imageUrl: String

    public init(
        upscaleFactor: Int,
        imageUrl: String,
        prompt: String? = nil,
        negativePrompt: String? = nil,
        promptWeighting: Bool? = nil,
        style: String? = nil,
        model: String? = nil,
        seed: Int? = nil,
        numInferenceSteps: Int? = nil,
        acceleration: Acceleration? = nil,
        userId: String? = nil,
        fileUid: String? = nil,
        useCloudStorage: Bool? = nil,
        preview: Bool? = nil,
        idToken: String? = nil,
        outputFormat: OutputFormat? = nil,
        outputQuality: Int? = nil,
        upscaleCreativity: Double? = nil
    ) {
        self.upscaleFactor = upscaleFactor
        self.imageUrl = imageUrl
        self.prompt = prompt
        self.negativePrompt = negativePrompt
        self.promptWeighting = promptWeighting
        self.style = style
        self.model = model
        self.seed = seed
        self.numInferenceSteps = numInferenceSteps
        self.acceleration = acceleration
        self.userId = userId
        self.fileUid = fileUid
        self.useCloudStorage = useCloudStorage
        self.preview = preview
        self.idToken = idToken
        self.outputFormat = outputFormat
        self.outputQuality = outputQuality
        self.upscaleCreativity = upscaleCreativity
    }

    private enum CodingKeys: String, CodingKey {
        case prompt = "prompt"
        case negativePrompt = "negative_prompt"
        case promptWeighting = "prompt_weighting"
        case style = "style"
        case model = "model"
        case seed = "seed"
        case numInferenceSteps = "num_inference_steps"
        case acceleration = "acceleration"
        case userId = "user_id"
        case fileUid = "file_uid"
        case useCloudStorage = "use_cloud_storage"
        case preview = "preview"
        case idToken = "id_token"
        case outputFormat = "output_format"
        case outputQuality = "output_quality"
        case upscaleFactor = "upscale_factor"
        case upscaleCreativity = "upscale_creativity"
        case taskType = "task_type"
        case imageUrl = "image_url"
    }
}

/// Widths of the outpainted borders around the client's picture, in pixels of the output.
public struct Borders: Codable, Sendable {
    public var left: Int?
    public var right: Int?
    public var up: Int?
    public var down: Int?

    private enum CodingKeys: String, CodingKey {
        case left = "left"
        case right = "right"
        case up = "up"
        case down = "down"
    }
}

/// One picture that says where things are, as the request has it, without the picture.
public struct ControlParams: Codable, Sendable {
    public var type: ControlType
    public var preprocess: Bool?
    public var conditioningScale: Double?
    public var startPercentage: Double?
    public var endPercentage: Double?

    private enum CodingKeys: String, CodingKey {
        case type = "type"
        case preprocess = "preprocess"
        case conditioningScale = "conditioning_scale"
        case startPercentage = "start_percentage"
        case endPercentage = "end_percentage"
    }
}

/// The first of two passes: the whole schedule at about the native size. What it made is enlarged
/// and finished.
public struct Draft: Codable, Sendable {
    public var width: Int
    public var height: Int
    public var strength: Double

    private enum CodingKeys: String, CodingKey {
        case width = "width"
        case height = "height"
        case strength = "strength"
    }
}

/// The part of the output that the model draws, if that is not the whole output at its own size.
public struct Drawn: Codable, Sendable {
    public var width: Int
    public var height: Int
    public var box: [Int]

    private enum CodingKeys: String, CodingKey {
        case width = "width"
        case height = "height"
        case box = "box"
    }
}

/// What a job has used.
public struct GenerationUsage: Codable, Sendable {
    public var gpuSeconds: Double
    /// The price, which does not depend on the card.
    public var units: Int

    private enum CodingKeys: String, CodingKey {
        case gpuSeconds = "gpu_seconds"
        case units = "units"
    }
}

/// The answer of a job that has none.
public struct GenerationFailure: Codable, Sendable {
    /// `error_code: message`, in one sentence.
    public var error: String
    public var errorCode: ErrorCode
    /// Whether the same request may succeed when it is sent again.
    public var retryable: Bool
    public var taskType: TaskType?
    public var fileUid: String?
    public var userId: String?
    public var usage: GenerationUsage?
    /// For RunPod: the worker is replaced.
    public var refreshWorker: Bool?

    private enum CodingKeys: String, CodingKey {
        case error = "error"
        case errorCode = "error_code"
        case retryable = "retryable"
        case taskType = "task_type"
        case fileUid = "file_uid"
        case userId = "user_id"
        case usage = "usage"
        case refreshWorker = "refresh_worker"
    }
}

/// One file of a result.
public struct GenerationFile: Codable, Sendable {
    /// null: it went inline, as the others that may be.
    public var url: String?
    public var storagePath: String?
    public var contentType: String
    public var bytes: Int
    public var width: Int
    /// Both in pixels.
    public var height: Int
    public var seed: Int
    public var thumbnailUrl: String?
    public var thumbnailPath: String?
    /// Colours to show until the thumbnail is here: https://blurha.sh.
    public var blurhash: String?
    /// Of a clip: its thumbnail.
    public var posterUrl: String?
    public var posterPath: String?
    /// What the content safety check said, where there is one.
    public var nsfw: Bool?

    private enum CodingKeys: String, CodingKey {
        case url = "url"
        case storagePath = "storage_path"
        case contentType = "content_type"
        case bytes = "bytes"
        case width = "width"
        case height = "height"
        case seed = "seed"
        case thumbnailUrl = "thumbnail_url"
        case thumbnailPath = "thumbnail_path"
        case blurhash = "blurhash"
        case posterUrl = "poster_url"
        case posterPath = "poster_path"
        case nsfw = "nsfw"
    }
}

/// A LoRA by its public name, and by how much it counts.
public struct LoraParams: Codable, Sendable {
    public var name: String
    public var scale: Double

    private enum CodingKeys: String, CodingKey {
        case name = "name"
        case scale = "scale"
    }
}

/// How a picture beside the prompt is used.
public struct ReferenceParams: Codable, Sendable {
    public var type: ReferenceType
    public var scale: Double

    private enum CodingKeys: String, CodingKey {
        case type = "type"
        case scale = "scale"
    }
}

/// How a finished picture is enlarged, and its details drawn anew where that is wanted.
public struct Upscale: Codable, Sendable {
    public var factor: Int
    public var width: Int
    public var height: Int
    public var upscaler: String
    public var creativity: Double?
    public var tile: [Int]?

    private enum CodingKeys: String, CodingKey {
        case factor = "factor"
        case width = "width"
        case height = "height"
        case upscaler = "upscaler"
        case creativity = "creativity"
        case tile = "tile"
    }
}

/// Which denoising steps of a clip are not computed in full.
public struct StepCache: Codable, Sendable {
    public var kind: StepCacheKind
    public var threshold: Double

    private enum CodingKeys: String, CodingKey {
        case kind = "kind"
        case threshold = "threshold"
    }
}

/// What really ran; what did not count is not there.
public struct GenerationParams: Codable, Sendable {
    public var negativePromptOf: String?
    public var promptWeighting: Bool?
    public var style: String?
    public var loras: [LoraParams]?
    public var acceleration: AccelerationLevel?
    public var quantize: QuantizedKind?
    public var width: Int
    public var height: Int
    public var numInferenceSteps: Int?
    public var guidanceScale: Double?
    public var scheduler: Scheduler?
    public var predictionType: String?
    public var timestepSpacing: String?
    public var originalInferenceSteps: Int?
    public var guidanceRescale: Double?
    public var microConditioning: [Int]?
    public var strength: Double?
    public var highNoiseFrac: Double?
    public var refinerInferenceSteps: Int?
    public var draft: Draft?
    public var maskBlur: Double?
    public var inpaintArea: InpaintArea?
    public var outpaint: Borders?
    public var drawn: Drawn?
    public var controlnets: [ControlParams]?
    public var ipAdapters: [ReferenceParams]?
    public var upscale: Upscale?
    public var numFrames: Int?
    public var fps: Int?
    public var flowShift: Double?
    public var guidanceScale2: Double?
    public var highNoiseLoras: [LoraParams]?
    public var lowNoiseLoras: [LoraParams]?
    public var videoQuality: VideoQuality?
    public var stepCache: StepCache?

    private enum CodingKeys: String, CodingKey {
        case negativePromptOf = "negative_prompt_of"
        case promptWeighting = "prompt_weighting"
        case style = "style"
        case loras = "loras"
        case acceleration = "acceleration"
        case quantize = "quantize"
        case width = "width"
        case height = "height"
        case numInferenceSteps = "num_inference_steps"
        case guidanceScale = "guidance_scale"
        case scheduler = "scheduler"
        case predictionType = "prediction_type"
        case timestepSpacing = "timestep_spacing"
        case originalInferenceSteps = "original_inference_steps"
        case guidanceRescale = "guidance_rescale"
        case microConditioning = "micro_conditioning"
        case strength = "strength"
        case highNoiseFrac = "high_noise_frac"
        case refinerInferenceSteps = "refiner_inference_steps"
        case draft = "draft"
        case maskBlur = "mask_blur"
        case inpaintArea = "inpaint_area"
        case outpaint = "outpaint"
        case drawn = "drawn"
        case controlnets = "controlnets"
        case ipAdapters = "ip_adapters"
        case upscale = "upscale"
        case numFrames = "num_frames"
        case fps = "fps"
        case flowShift = "flow_shift"
        case guidanceScale2 = "guidance_scale_2"
        case highNoiseLoras = "high_noise_loras"
        case lowNoiseLoras = "low_noise_loras"
        case videoQuality = "video_quality"
        case stepCache = "step_cache"
    }
}

/// A clip in numbers.
public struct VideoInfo: Codable, Sendable {
    public var frames: Int
    public var width: Int
    public var height: Int
    public var fps: Int
    public var durationSeconds: Double

    private enum CodingKeys: String, CodingKey {
        case frames = "frames"
        case width = "width"
        case height = "height"
        case fps = "fps"
        case durationSeconds = "duration_seconds"
    }
}

/// The answer of a job that has a result; inline, its URLs are `data:` URIs.
public struct GenerationResponse: Codable, Sendable {
    public var images: [String]?
    public var imageUrl: String?
    public var videos: [String]?
    public var videoUrl: String?
    public var videoInfo: VideoInfo?
    public var seed: Int?
    public var seeds: [Int]?
    public var model: String?
    public var params: GenerationParams?
    public var storage: StorageKind
    public var timings: [String: Double]?
    public var usage: GenerationUsage?
    public var warnings: [String]?
    public var files: [GenerationFile]?
    public var taskType: TaskType
    public var userId: String?
    public var fileUid: String?

    private enum CodingKeys: String, CodingKey {
        case images = "images"
        case imageUrl = "image_url"
        case videos = "videos"
        case videoUrl = "video_url"
        case videoInfo = "video_info"
        case seed = "seed"
        case seeds = "seeds"
        case model = "model"
        case params = "params"
        case storage = "storage"
        case timings = "timings"
        case usage = "usage"
        case warnings = "warnings"
        case files = "files"
        case taskType = "task_type"
        case userId = "user_id"
        case fileUid = "file_uid"
    }
}

/// A finished result, as the document keeps it: of images or of a clip.
public struct GenerationData: Codable, Sendable {
    /// Download URLs; empty where the result went inline.
    public var images: [String]?
    /// The first of them.
    public var imageUrl: String?
    public var videos: [String]?
    public var videoUrl: String?
    public var videoInfo: VideoInfo?
    public var seed: Int?
    public var seeds: [Int]?
    public var model: String?
    public var params: GenerationParams?
    public var storage: StorageKind
    /// Seconds of each stage.
    public var timings: [String: Double]?
    public var usage: GenerationUsage?
    /// What did not go as asked.
    public var warnings: [String]?
    public var files: [GenerationFile]?

    private enum CodingKeys: String, CodingKey {
        case images = "images"
        case imageUrl = "image_url"
        case videos = "videos"
        case videoUrl = "video_url"
        case videoInfo = "video_info"
        case seed = "seed"
        case seeds = "seeds"
        case model = "model"
        case params = "params"
        case storage = "storage"
        case timings = "timings"
        case usage = "usage"
        case warnings = "warnings"
        case files = "files"
    }
}

/// What a document keeps of the request: all of its fields but `id_token`, with placeholders for
/// inline pictures.
public struct RequestData: Codable, Sendable {
    public var taskType: TaskType?
    public var prompt: String?
    public var negativePrompt: String?
    public var model: String?
    public var style: String?
    public var seed: Int?
    /// True: there was no room for the rest.
    public var leftOut: Bool?

    private enum CodingKeys: String, CodingKey {
        case taskType = "task_type"
        case prompt = "prompt"
        case negativePrompt = "negative_prompt"
        case model = "model"
        case style = "style"
        case seed = "seed"
        case leftOut = "left_out"
    }
}

/// A job's progress, as RunPod and the document receive it.
public struct GenerationProgress: Codable, Sendable {
    public var stage: GenerationStage
    public var step: Int
    /// Both within the stage.
    public var totalSteps: Int
    /// Of the whole job; never decreases within an attempt.
    public var percent: Int
    /// Seconds left; null: not known.
    public var etaSeconds: Int?
    /// Only in the document, and only if requested: a data URI of a WebP of at most 8 KB.
    public var preview: String?

    private enum CodingKeys: String, CodingKey {
        case stage = "stage"
        case step = "step"
        case totalSteps = "total_steps"
        case percent = "percent"
        case etaSeconds = "eta_seconds"
        case preview = "preview"
    }
}

/// Why a document is `failed`.
public struct GenerationError: Codable, Sendable {
    public var code: ErrorCode
    public var message: String
    public var retryable: Bool

    private enum CodingKeys: String, CodingKey {
        case code = "code"
        case message = "message"
        case retryable = "retryable"
    }
}

/// `generations/{user_id}/files/{file_uid}`; times are the server's.
public struct GenerationDocument: Codable, Sendable {
    public var status: GenerationStatus
    public var userId: String?
    public var fileUid: String?
    public var jobId: String?
    public var workerId: String?
    /// Of the worker's log and traces.
    public var traceId: String?
    public var attempt: Int?
    public var requestData: RequestData?
    public var createdAt: Date?
    public var updatedAt: Date?
    public var completedAt: Date?
    public var progress: GenerationProgress?
    public var heartbeatAt: Date?
    /// Past it the job is dead.
    public var expiresAt: Date?
    /// From when on it may be deleted, where the operator keeps nothing for ever.
    public var deleteAt: Date?
    public var usage: GenerationUsage?
    public var generationData: GenerationData?
    public var error: GenerationError?
    /// The app's, as what follows.
    public var cancelRequested: Bool?
    public var favorite: Bool?
    public var hidden: Bool?
    public var labels: [String]?

    private enum CodingKeys: String, CodingKey {
        case status = "status"
        case userId = "user_id"
        case fileUid = "file_uid"
        case jobId = "job_id"
        case workerId = "worker_id"
        case traceId = "trace_id"
        case attempt = "attempt"
        case requestData = "request_data"
        case createdAt = "created_at"
        case updatedAt = "updated_at"
        case completedAt = "completed_at"
        case progress = "progress"
        case heartbeatAt = "heartbeat_at"
        case expiresAt = "expires_at"
        case deleteAt = "delete_at"
        case usage = "usage"
        case generationData = "generation_data"
        case error = "error"
        case cancelRequested = "cancel_requested"
        case favorite = "favorite"
        case hidden = "hidden"
        case labels = "labels"
    }
}

/// What a request would cost.
public struct Quote: Codable, Sendable {
    /// On any card.
    public var units: Int
    /// On this worker's; null: not known yet.
    public var estimatedSeconds: Double?
    public var params: GenerationParams

    private enum CodingKeys: String, CodingKey {
        case units = "units"
        case estimatedSeconds = "estimated_seconds"
        case params = "params"
    }
}

/// One of the operator's styles.
public struct ServedStyle: Codable, Sendable {
    public var name: String
    public var tasks: [TaskType]

    private enum CodingKeys: String, CodingKey {
        case name = "name"
        case tasks = "tasks"
    }
}

/// One of the operator's LoRAs, as far as an app may show it.
public struct ServedLora: Codable, Sendable {
    public var name: String
    public var family: ModelFamily?
    public var triggerWords: [String]
    public var licence: String?

    private enum CodingKeys: String, CodingKey {
        case name = "name"
        case family = "family"
        case triggerWords = "trigger_words"
        case licence = "licence"
    }
}

/// The names that the fields of sizes take.
public struct SizePresets: Codable, Sendable {
    public var imageSize: [String]
    public var aspectRatio: [String]
    public var resolution: [String]

    private enum CodingKeys: String, CodingKey {
        case imageSize = "image_size"
        case aspectRatio = "aspect_ratio"
        case resolution = "resolution"
    }
}

/// What this worker takes at most.
public struct Limits: Codable, Sendable {
    public var promptCharacters: Int
    public var imagePixels: Int
    public var upscaledPixels: Int
    public var jobCost: Int
    public var inputImageBytes: Int
    public var inputImagePixels: Int
    public var resultBytes: Int
    public var jobTimeoutSeconds: Double

    private enum CodingKeys: String, CodingKey {
        case promptCharacters = "prompt_characters"
        case imagePixels = "image_pixels"
        case upscaledPixels = "upscaled_pixels"
        case jobCost = "job_cost"
        case inputImageBytes = "input_image_bytes"
        case inputImagePixels = "input_image_pixels"
        case resultBytes = "result_bytes"
        case jobTimeoutSeconds = "job_timeout_seconds"
    }
}

/// Of the contract, the worker and the fingerprint of requests.
public struct Versions: Codable, Sendable {
    public var contract: Int
    public var worker: String
    public var fingerprint: String

    private enum CodingKeys: String, CodingKey {
        case contract = "contract"
        case worker = "worker"
        case fingerprint = "fingerprint"
    }
}

/// What a worker serves.
public struct Capabilities: Codable, Sendable {
    public var tasks: [TaskType]
    /// For each task, the default first.
    public var models: [String: [ServedModel]]
    public var styles: [ServedStyle]
    public var loras: [ServedLora]
    public var controlnetTypes: [String]
    public var upscaleFactors: [Int]
    public var sizePresets: SizePresets
    public var schedulers: [Scheduler]
    public var outputFormats: [OutputFormat]
    /// Whether documents show what is being made.
    public var preview: Bool
    public var limits: Limits
    public var versions: Versions

    private enum CodingKeys: String, CodingKey {
        case tasks = "tasks"
        case models = "models"
        case styles = "styles"
        case loras = "loras"
        case controlnetTypes = "controlnet_types"
        case upscaleFactors = "upscale_factors"
        case sizePresets = "size_presets"
        case schedulers = "schedulers"
        case outputFormats = "output_formats"
        case preview = "preview"
        case limits = "limits"
        case versions = "versions"
    }
}

/// A model that serves a task; the fields of images and those of clips are the other's
/// `NotRequired`.
public struct ServedModel: Codable, Sendable {
    public var name: String
    public var width: Int
    public var height: Int
    public var sizeMultiple: Int
    public var numInferenceSteps: Int
    public var guidanceScale: Double
    public var fewSteps: Bool
    public var accelerations: [AccelerationLevel]
    /// Width and height of each.
    public var aspectRatios: [String: [Int]]
    /// null: its own.
    public var scheduler: String?
    public var schedulers: [Scheduler]?
    public var hasRefiner: Bool?
    public var hasIpAdapter: Bool?
    public var makesDepth: Bool?
    /// null: Lanczos.
    public var upscaler: String?
    public var imageSizes: [String: [Int]]?
    public var numFrames: Int?
    public var fps: Int?
    public var endImage: EndImage?

    private enum CodingKeys: String, CodingKey {
        case name = "name"
        case width = "width"
        case height = "height"
        case sizeMultiple = "size_multiple"
        case numInferenceSteps = "num_inference_steps"
        case guidanceScale = "guidance_scale"
        case fewSteps = "few_steps"
        case accelerations = "accelerations"
        case aspectRatios = "aspect_ratios"
        case scheduler = "scheduler"
        case schedulers = "schedulers"
        case hasRefiner = "has_refiner"
        case hasIpAdapter = "has_ip_adapter"
        case makesDepth = "makes_depth"
        case upscaler = "upscaler"
        case imageSizes = "image_sizes"
        case numFrames = "num_frames"
        case fps = "fps"
        case endImage = "end_image"
    }
}
