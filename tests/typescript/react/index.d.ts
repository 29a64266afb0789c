export function useEffect(effect: () => void | (() => void), dependencies?: readonly unknown[]): void;
export function useState<S>(initial: S | (() => S)): [S, (next: S | ((before: S) => S)) => void];
