"""A traced JAX function as an ONNX model with a free batch axis (the export extra).

The function is traced with a symbolic batch size. What does not depend on the inputs is computed
here and stored; of the rest, every JAX primitive is one rule that emits ONNX operators. The rules
are for what students consist of; another primitive is refused by name.

Indexing and writing at constant places (`gather`, `scatter`) are carried out once on the numbers
0, 1, … of the places themselves: what comes out is the table of one ONNX Gather.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from vdd_jax.core import gaussian

OPSET = 18
IR_VERSION = 9  # of onnxruntime 1.15 and newer
BATCH = "b"  # the symbol


class NotLowered(RuntimeError):
    """A function that these rules cannot express; the text is for the user."""


def lower(function: Callable[..., dict], inputs: dict[str, tuple[tuple[int, ...], Any]]) -> bytes:
    """The ONNX model, serialised, of `function(**inputs) → outputs by name`.

    Args:
      inputs: by name, shape without the batch axis (which is the first) and type.

    Raises:
      NotLowered: for a primitive without a rule.
    """
    from onnx import checker, helper

    batch, = jax.export.symbolic_shape(BATCH)
    shapes = {name: jax.ShapeDtypeStruct((batch, *shape), dtype)
              for name, (shape, dtype) in inputs.items()}
    closed, found = jax.make_jaxpr(lambda given: function(**given), return_shape=True)(shapes)
    graph = _Graph()
    names = sorted(inputs)  # the order in which JAX flattens a dictionary
    graph.batch = graph.op("Shape", names[0], start=0, end=1)
    results = _run(graph, closed, names)
    for name, value in zip(sorted(found), results, strict=True):
        graph.op("Identity", value, name=name)

    def info(name, shape, dtype):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    nodes, constants = graph.needed_for(list(found))
    model = helper.make_model(
        helper.make_graph(
            nodes, "student", [info(name, *inputs[name]) for name in inputs],
            [info(name, shape.shape[1:], shape.dtype) for name, shape in found.items()],
            initializer=constants),
        producer_name="vdd_jax", opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION)
    checker.check_model(model)
    return model.SerializeToString()


class _Graph:
    """Nodes under way. A value is the name of a tensor, or an array that is known."""

    def __init__(self):
        self.nodes, self.constants = [], {}
        self.batch = ""  # the batch size, `[1]`

    def op(self, kind: str, *inputs, name: str = "", outputs: int = 0, **attributes):
        """Emits a node; the name of its result, or with `outputs` those of so many."""
        from onnx import helper

        first = len(self.nodes)
        names = [name or f"v{first}"] if not outputs else [
            f"v{first}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, [self.tensor(v) for v in inputs], names,
                                           **attributes))
        return names if outputs else names[0]

    def tensor(self, value) -> str:
        """The name of a value; one that is known becomes part of the model."""
        if isinstance(value, str):
            return value
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def reshape(self, value, shape):
        """To a shape of which the batch may be one axis."""
        if not isinstance(value, str):
            return np.asarray(value).reshape(shape)
        return self.op("Reshape", value, np.int64([-1 if _symbolic(d) else d for d in shape]))

    def transpose(self, value, order):
        if list(order) == sorted(order):
            return value
        if not isinstance(value, str):
            return np.transpose(value, order)
        return self.op("Transpose", value, perm=list(order))

    def needed_for(self, outputs: list[str]):
        """The nodes and the constants that outputs depend on."""
        from onnx import numpy_helper

        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                needed.update(node.input)
                kept.append(node)
        return kept[::-1], [numpy_helper.from_array(v, name)
                            for name, v in self.constants.items() if name in needed]


def _symbolic(size) -> bool:
    """Whether it is the batch size.

    Raises:
      NotLowered: for a size that is computed from it.
    """
    if isinstance(size, (int, np.integer)):
        return False
    if str(size) != BATCH:
        raise NotLowered(f"an axis of size {size}: only the batch may be an axis of free size")
    return True


def _run(graph: _Graph, closed: ClosedJaxpr, arguments: list) -> list:
    """Emits what a jaxpr does; the values of its outputs."""
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def value(v):
        return np.asarray(v.val, v.aval.dtype) if isinstance(v, Literal) else known[v]

    for eqn in jaxpr.eqns:
        given = [value(v) for v in eqn.invars]
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        free = any(_symbolic(d) for v in eqn.outvars for d in v.aval.shape)
        if platforms := eqn.params.get("branches_platforms"):  # what no other platform computes
            results = _run(graph, eqn.params["branches"][platforms.index(None)], given[1:])
        elif eqn.primitive.name == "platform_index":
            results = [np.int32(0)]  # not looked at
        elif isinstance(inner, ClosedJaxpr):
            results = _run(graph, inner, given)
        elif not free and not any(isinstance(v, str) for v in given):
            results = eqn.primitive.bind(*given, **eqn.params)
            results = [np.asarray(v) for v in (
                results if eqn.primitive.multiple_results else [results])]
        elif rule := RULES.get(eqn.primitive.name):
            results = rule(graph, eqn, *given)
            results = results if eqn.primitive.multiple_results else [results]
        else:
            raise NotLowered(f"JAX's primitive {eqn.primitive.name!r} cannot be written as ONNX "
                             "by vdd_jax/export_onnx.py; the formats stablehlo and numpy have no "
                             "such limit")
        known.update(zip(eqn.outvars, results, strict=True))
    return [value(v) for v in jaxpr.outvars]


# ---- rules: (graph, equation, values of its inputs) → value, or values, of its outputs

def _same(kind: str):
    """One ONNX operator does the same."""
    return lambda graph, eqn, *given: graph.op(kind, *given)


def _log1p(graph, eqn, x):
    """log(1 + x), to the last digit for small x too: x log(u)/(u − 1) with the rounded u = 1 + x
    (Higham 2002, problem 1.5)."""
    one = np.float32(1)
    u = graph.op("Add", x, one)
    exact = graph.op("Div", graph.op("Mul", x, graph.op("Log", u)), graph.op("Sub", u, one))
    return graph.op("Where", graph.op("Equal", u, one), x, exact)


def _integer_pow(graph, eqn, x):
    return graph.op("Pow", x, np.float32(eqn.params["y"]))


def _cast(graph, eqn, x):
    from onnx import helper

    return graph.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(eqn.params["new_dtype"]))


def _select(graph, eqn, which, *cases):
    if len(cases) != 2:
        raise NotLowered(f"a choice among {len(cases)} cases; the rule is for two")
    return graph.op("Where", which, cases[1], cases[0])


def _reduce(kind: str):
    def rule(graph, eqn, x):
        return graph.op(kind, x, np.int64(eqn.params["axes"]), keepdims=0)

    return rule


def _broadcast(graph, eqn, x, *_):
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    before = eqn.invars[0].aval.shape
    aligned = [1] * len(shape)
    for place, size in zip(places, before, strict=True):
        aligned[place] = size
    if len(aligned) != len(before):
        x = graph.reshape(x, aligned)
    if aligned == list(shape):
        return x
    parts, run = [], []
    for size in [*shape, None]:
        if size is not None and not _symbolic(size):
            run.append(size)
            continue
        if run:
            parts.append(np.int64(run))
        if size is not None:
            parts.append(graph.batch)
        run = []
    wanted = parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=0)
    return graph.op("Expand", x, wanted)


def _concatenate(graph, eqn, *given):
    parts = [v for v, var in zip(given, eqn.invars, strict=True) if 0 not in var.aval.shape]
    return graph.op("Concat", *parts, axis=eqn.params["dimension"])


def _stack(graph, eqn, *given):
    axis = np.int64([eqn.params["axis"]])
    return graph.op("Concat", *(graph.op("Unsqueeze", v, axis) for v in given), axis=int(axis[0]))


def _split(graph, eqn, x):
    sizes = eqn.params["sizes"]
    return graph.op("Split", x, np.int64(sizes), axis=eqn.params["axis"], outputs=len(sizes))


def _slice(graph, eqn, x):
    p, shape = eqn.params, eqn.invars[0].aval.shape
    cut = [i for i, size in enumerate(shape) if not _symbolic(size)]  # the batch stays whole
    strides = p["strides"] or (1,) * len(shape)
    return graph.op("Slice", x, *(np.int64([v[i] for i in cut]) for v in (
        p["start_indices"], p["limit_indices"])), np.int64(cut),
        np.int64([strides[i] for i in cut]))


def _dot_general(graph, eqn, lhs, rhs):
    (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
    left, right = (v.aval.shape for v in eqn.invars)
    lf = [i for i in range(len(left)) if i not in (*lc, *lb)]
    rf = [i for i in range(len(right)) if i not in (*rc, *rb)]
    lhs = graph.transpose(lhs, (*lb, *lf, *lc))
    rhs = graph.transpose(rhs, (*rb, *rc, *rf))
    batch, free = [left[i] for i in lb], [left[i] for i in lf]
    depth, columns = math.prod(left[i] for i in lc), [right[i] for i in rf]

    def flat(sizes):
        return -1 if any(map(_symbolic, sizes)) else math.prod(sizes)

    whole = not batch and len(lc) == 1  # MatMul takes any number of axes of rows
    if not whole and (len(lf), len(lc)) != (1, 1):
        lhs = graph.reshape(lhs, [*batch, flat(free), depth])
    if (len(rf), len(rc)) != (1, 1):
        rhs = graph.reshape(rhs, [*batch, depth, flat(columns)])
    out = graph.op("MatMul", lhs, rhs)
    if (len(lf) == 1 or whole) and len(rf) == 1:
        return out
    return graph.reshape(out, [*batch, *free, *columns])


def _gather(graph, eqn, x, indices):
    p, source = eqn.params, eqn.invars[0].aval.shape

    def move(places):
        sizes = [1 if _symbolic(size) else size for size in p["slice_sizes"]]
        return jax.lax.gather(places, indices, p["dimension_numbers"], sizes, mode=p["mode"],
                              fill_value=-1)

    return _moved(graph, eqn, move, [(x, source)])


def _scatter(graph, eqn, x, indices, updates):
    p = eqn.params

    def move(places, new):
        return jax.lax.scatter(places, indices, new, p["dimension_numbers"], mode=p["mode"])

    return _moved(graph, eqn, move, [(x, eqn.invars[0].aval.shape),
                                     (updates, eqn.invars[2].aval.shape)])


def _moved(graph, eqn, move, sources):
    """What `move` does to arrays, which for each row of the batch is the same: a table of where
    each number comes from."""
    rows, places, first = [], [], 0
    for value, shape in sources:
        if not isinstance(value, str) or sum(map(_symbolic, shape)) != 1:
            raise NotLowered(f"{eqn.primitive.name} of an array without a batch axis")
        axis = [_symbolic(size) for size in shape].index(True)
        others = [size for i, size in enumerate(shape) if i != axis]
        order = (axis, *(i for i in range(len(shape)) if i != axis))
        rows.append(graph.reshape(graph.transpose(value, order), [-1, math.prod(others)]))
        numbers = first + np.arange(math.prod(others)).reshape(others)
        places.append(jnp.asarray(np.expand_dims(numbers, axis), jnp.int32))
        first += math.prod(others)
    shape = eqn.outvars[0].aval.shape
    axis = [_symbolic(size) for size in shape].index(True)
    table = np.squeeze(np.asarray(move(*places)), axis)
    if table.size and table.min() < 0:
        raise NotLowered(f"{eqn.primitive.name} beyond the end of an array")
    together = rows[0] if len(rows) == 1 else graph.op("Concat", *rows, axis=1)
    out = graph.op("Gather", together, table.reshape(-1).astype(np.int64), axis=1)
    out = graph.reshape(out, [-1, *table.shape])
    order = list(range(1, len(shape)))
    order.insert(axis, 0)
    return graph.transpose(out, order)


def _qr(graph, eqn, x):
    """Only R is used (`gaussian.diffuse_tril`); the rows of Gram-Schmidt are already positive."""
    closed = jax.make_jaxpr(gaussian.triangularise)(
        jax.ShapeDtypeStruct(eqn.invars[0].aval.shape, np.float32))
    r, = _run(graph, closed, [x])
    return None, r


RULES = {
    **{name: _same(kind) for name, kind in {
        "abs": "Abs", "add": "Add", "and": "And", "atan": "Atan", "cos": "Cos", "div": "Div",
        "eq": "Equal", "erf": "Erf", "exp": "Exp", "ge": "GreaterOrEqual", "gt": "Greater",
        "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less", "max": "Max",
        "min": "Min", "mul": "Mul", "neg": "Neg", "not": "Not", "or": "Or", "pow": "Pow",
        "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh"}.items()},
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "convert_element_type": _cast,
    "copy": lambda graph, eqn, x: x,
    "dot_general": _dot_general,
    "gather": _gather,
    "integer_pow": _integer_pow,
    "log1p": _log1p,
    "ne": lambda graph, eqn, x, y: graph.op("Not", graph.op("Equal", x, y)),
    "optimization_barrier": lambda graph, eqn, *given: list(given),
    "qr": _qr,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": lambda graph, eqn, x: graph.reshape(x, eqn.params["new_sizes"]),
    "rsqrt": lambda graph, eqn, x: graph.op("Reciprocal", graph.op("Sqrt", x)),
    "scatter": _scatter,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": lambda graph, eqn, x: graph.op("Mul", x, x),
    "squeeze": lambda graph, eqn, x: graph.reshape(x, eqn.outvars[0].aval.shape),
    "stack": _stack,
    "stop_gradient": lambda graph, eqn, x: x,
    "transpose": lambda graph, eqn, x: graph.transpose(x, eqn.params["permutation"]),
}
