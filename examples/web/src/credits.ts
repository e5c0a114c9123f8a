// What is left to spend, as the wallet's document says it. Where the backend takes no credits there is no wallet.

import { doc, onSnapshot } from "firebase/firestore";
import { byId } from "./dom.js";
import { db } from "./firebase.js";

/** Shows it, and tells `has`, until the returned function is called; null where there is no wallet. */
export function showCredits(uid: string, has: (credits: number | null) => void): () => void {
  const place = byId("credits");
  const hide = (): void => {
    place.hidden = true;
    has(null);
  };
  const stop = onSnapshot(
    doc(db, "wallets", uid),
    (snapshot) => {
      const credits: unknown = snapshot.data()?.["credits"];
      place.hidden = typeof credits !== "number";
      byId("credits-count").textContent = typeof credits === "number" ? String(credits) : "";
      has(typeof credits === "number" ? credits : null);
    },
    hide,
  );
  return () => {
    stop();
    hide();
  };
}
