// Shows the credits left, from the wallet's document. A backend without credits has no wallets.

import { doc, onSnapshot } from "firebase/firestore";
import { byId } from "./dom.js";
import { db } from "./firebase.js";

/** Show the credits and pass them to `has` (null: no wallet), until the returned function is called. */
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
