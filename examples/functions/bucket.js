// The bucket of results and sources: STORAGE_BUCKET, or the project's default one.

import { getStorage } from "firebase-admin/storage";
import { storageBucket } from "./params.js";

export const bucket = () => getStorage().bucket(storageBucket.value() || undefined);
