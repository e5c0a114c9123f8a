// What the phone's code imports of Firebase's SDK, in the hands of a test: `push` is what the server sends.

export const doc = (...path) => path;
export let push = () => {};
export let fail = () => {};
export let listeners = 0;
export const onSnapshot = (_ref, next, error) => {
  listeners += 1;
  push = (fields, metadata) => next({ data: () => fields, metadata });
  fail = error;
  return () => {
    listeners -= 1;
    push = () => {};
  };
};
export const writes = [];
export const updateDoc = async (ref, fields) => void writes.push([ref, fields]);
export let call = async () => ({});
export const setCall = (answer) => {
  call = answer;
};
export const httpsCallable = () => (input) => call(input);
