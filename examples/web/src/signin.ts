// Signs in with an e-mail account, or as a guest without one.

import { createUserWithEmailAndPassword, signInAnonymously, signInWithEmailAndPassword } from "firebase/auth";
import { byId } from "./dom.js";
import { auth } from "./firebase.js";
import { inWords } from "./words.js";

export function setUpSignIn(): void {
  const form = byId<HTMLFormElement>("signin-form");
  const wrong = byId("signin-error");

  async function attempt(enter: () => Promise<unknown>): Promise<void> {
    wrong.textContent = "";
    form.inert = true;
    try {
      await enter();
      form.reset();
    } catch (error) {
      wrong.textContent = inWords(error);
    } finally {
      form.inert = false;
    }
  }

  const given = (): [typeof auth, string, string] => {
    const fields = new FormData(form);
    return [auth, String(fields.get("email")).trim(), String(fields.get("password"))];
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const isNew = (event.submitter as HTMLButtonElement | null)?.value === "new";
    void attempt(() => (isNew ? createUserWithEmailAndPassword(...given()) : signInWithEmailAndPassword(...given())));
  });
  byId("signin-guest").addEventListener("click", () => void attempt(() => signInAnonymously(auth)));
}
