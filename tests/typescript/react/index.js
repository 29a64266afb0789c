// One component, drawn again after each change of its state.
const states = [];
let drawn = 0, pending = [], known, end, component, shown;

export const useState = (initial) => {
  const at = drawn++;
  if (at === states.length) states.push(initial);
  return [states[at], (next) => {
    states[at] = typeof next === "function" ? next(states[at]) : next;
    queueMicrotask(draw);
  }];
};

export const useEffect = (effect, dependencies) => pending.push([effect, JSON.stringify(dependencies)]);

const draw = () => {
  drawn = 0;
  pending = [];
  shown(component());
  for (const [effect, wanted] of pending) {
    if (wanted === known) continue;
    known = wanted;
    end?.();
    end = effect();
  }
};

/** Draw `what`, from now on; `show` gets what it returns. */
export const render = (what, show) => {
  [component, shown] = [what, show];
  draw();
};
