#!/usr/bin/env python3
"""Makes test/data/network/: what timm's EfficientNets compute in fp64, for the tests of net.

    python3 -m venv venv && venv/bin/pip install torch timm numpy safetensors
    venv/bin/python test/data/make_network_fixtures.py

Made with torch 2.15.0, timm 1.0.31, numpy 2.4.6, safetensors 0.8.0 (the files' metadata says with
which); takes some minutes. The references run in fp64 on one thread. The same is computed in fp32 with
three sets of kernels: the script prints its distance from fp64 beside each tolerance, and fails
unless that is ten times inside. Initial values, inputs and projections are those of
network_values.py: they are generated, as B0's parameters are too large to commit.

b0_{published,expand}_{64,65}.safetensors: B0 in either topology, batch 4, 10 classes (F64). Loss:
softmax cross-entropy with label smoothing 0.1, plus 1e-5 * sum(w^2) over the 4-D tensors. No dropout.
Three steps on one batch: v = 0.9 v - 0.002 g; w += v.
  logits [4,10]                of the first forward pass, in training mode
  losses, cross_entropies [4]  with and without decay term, before each step and after the third
  gradient_norms [tensors]     of the loss with decay term, before the first step, in state_dict order
  gradient/NAME, or gradient_projections/NAME [16] if it has more than 64 elements
  running_norms [statistics]   of the change (statistic - 0.99 * its initial value) by the first
                               forward pass, in state_dict order: the scale for tolerances
  running/NAME, or running_projections/NAME [16]  running statistics after the first forward pass
  eval_logits [4,10]           inference mode after the three steps, running statistics updated three
                               times (the forward pass for the fourth loss comes later)

narrow.safetensors: a checkpoint of a narrow network (width 0.25, depth 0.5), briefly trained.
narrow_steps.safetensors: ten steps from it (F64), each on the next batch of 8 pictures, starting with
the metadata's first_picture. Momentum starts at 0; learning rate 0.02, label smoothing 0.1, decay
factor 1e-3: 100 times the usual one, so that what it does to the weights can be seen.
  losses, cross_entropies, decay_terms [11]     before each step and, of an 11th batch, after the tenth
  eval_logits_before, eval_logits_after [8,10]  inference mode, first batch, before and after the steps

counts.json: sizes of the published models. *_state_dict.json: names, shapes, types, in order.
"""

import functools
import json
import math
import os
import struct
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
import numpy as np
import safetensors.numpy
import timm
import torch
from timm.layers import get_act_layer
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet

import network_values as values

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "network")
STAGES = ["ds_r1_k3_s1_e1_c16_se0.25", "ir_r2_k3_s2_e6_c24_se0.25", "ir_r2_k5_s2_e6_c40_se0.25",
          "ir_r3_k3_s2_e6_c80_se0.25", "ir_r3_k5_s1_e6_c112_se0.25", "ir_r4_k5_s2_e6_c192_se0.25",
          "ir_r1_k3_s1_e6_c320_se0.25"]
TOPOLOGY = {False: "published", True: "expand-at-ratio-1"}
SMOOTHING, MOMENTUM = 0.1, 0.9
B0_STEPS = {"lr": 0.002, "weight_decay": 1e-5}
NARROW = {"width": 0.25, "depth": 0.5}
NARROW_TRAINING = {"steps": 80, "batch": 16, "lr": 0.02, "weight_decay": 1e-5}
NARROW_STEPS = {"steps": 10, "batch": 8, "lr": 0.02, "weight_decay": 1e-3}
SMALL = 64  # elements of a tensor that is stored in full
# Type, channels last, threads, oneDNN: of the reference, and of what fp32 is measured with.
REFERENCE = (torch.float64, False, 1, True)
VARIANTS = [(torch.float32, False, 1, True), (torch.float32, True, 1, True),
            (torch.float32, False, 2, False)]
VERSIONS = {m.__name__: m.__version__.split("+")[0] for m in (torch, timm, np, safetensors)}


# Models.

def build(width, depth, classes, expand, bn_momentum=0.01, device=None):
    stages = [[s] for s in STAGES]
    if expand:  # timm's InvertedResidual has its expand convolution at ratio 1 too
        stages[0] = ["ir" + STAGES[0][2:]]
    rounded = functools.partial(round_channels, multiplier=width)
    return EfficientNet(
        decode_arch_def(stages, depth), num_classes=classes, num_features=rounded(1280),
        stem_size=32, round_chs_fn=rounded, act_layer=get_act_layer("swish"),
        norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=1e-3, momentum=bn_momentum),
        pad_type="same", drop_rate=0.0, drop_path_rate=0.0, device=device)


def running_statistics(model):
    return [(n, b) for n, b in model.named_buffers() if not n.endswith("num_batches_tracked")]


def initialise(model, expand, **options):
    with torch.no_grad():
        for t, (name, p) in enumerate(model.named_parameters()):
            p.copy_(torch.from_numpy(values.parameter(name, tuple(p.shape), t, expand, **options)))


def numpy64(tensor):
    return np.array(tensor.detach().double().contiguous().numpy())


class Run:
    """A model with its momentum, in the type and with the kernels of a variant."""

    def __init__(self, model, variant):
        dtype, channels_last, threads, onednn = variant
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = onednn
        self.format = {"memory_format": torch.channels_last if channels_last else torch.contiguous_format}
        self.model = model.to(dtype).to(**self.format)
        self.dtype = dtype
        self.velocities = [torch.zeros_like(p) for p in model.parameters()]

    def tensor(self, images):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return torch.from_numpy(images).to(self.dtype).contiguous(**self.format)

    def infer(self, images):
        with torch.no_grad():
            return numpy64(self.model.eval()(self.tensor(images)))

    def forward(self, images, labels, weight_decay):
        """Logits, cross-entropy and decay term, in training mode."""
        logits = self.model.train()(self.tensor(images))
        cross_entropy = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(labels), label_smoothing=SMOOTHING)
        kernels = [p for p in self.model.parameters() if p.dim() == 4]
        return logits, cross_entropy, weight_decay * sum((w * w).sum() for w in kernels)

    def backward(self, loss):
        self.model.zero_grad()
        loss.backward()

    def update(self, lr):
        """torch.optim.SGD keeps the learning rate out of the momentum buffer, hence by hand."""
        with torch.no_grad():
            for p, v in zip(self.model.parameters(), self.velocities):
                v.mul_(MOMENTUM).sub_(lr * p.grad)
                p.add_(v)


# The proof that fp32 is well inside the tolerances.

def norm_error(got, reference):
    return np.linalg.norm(got - reference) / np.linalg.norm(reference)


def largest_error(got, reference):
    return np.max(np.abs(got - reference) / np.abs(reference))


class Proof:
    def __init__(self):
        self.rows = {}

    def add(self, quantity, tolerance, error):
        self.rows.setdefault(quantity, (tolerance, []))[1].append(float(error))

    def print(self):
        """Returns whether all holds."""
        print(f"{'quantity':<52} tolerance  fp32 errors, three variants    margin")
        for quantity, (tolerance, errors) in self.rows.items():
            print(f"{quantity:<52} {tolerance:9.0e}  {' '.join(f'{e:8.1e}' for e in errors)}  "
                  f"{tolerance / max(errors):10.0f}")
        return all(10 * max(errors) <= tolerance for tolerance, errors in self.rows.values())


# Three steps of B0.

def run_b0(expand, resolution, variant):
    model = build(1.0, 1.0, values.CLASSES, expand)
    initialise(model, expand)
    for j, (name, b) in enumerate(running_statistics(model)):
        b.copy_(torch.from_numpy(values.running_statistic(name, tuple(b.shape), j)))
    initial = {n: numpy64(b) for n, b in running_statistics(model)}
    run = Run(model, variant)
    images, labels = values.b0_batch(resolution)
    out = {"losses": [], "cross_entropies": []}
    for step in range(4):
        if step == 3:
            out["eval_logits"] = run.infer(images)
        logits, cross_entropy, decay_term = run.forward(images, labels, B0_STEPS["weight_decay"])
        out["cross_entropies"].append(cross_entropy.item())
        out["losses"].append((cross_entropy + decay_term).item())
        run.backward(cross_entropy + decay_term)
        if step == 0:
            out["logits"] = numpy64(logits)
            out["gradient"] = {n: numpy64(p.grad) for n, p in model.named_parameters()}
            out["running"] = {n: numpy64(b) for n, b in running_statistics(model)}
            out["change"] = {n: b - 0.99 * initial[n] for n, b in out["running"].items()}
        run.update(B0_STEPS["lr"])
    for key in ("losses", "cross_entropies"):
        out[key] = np.array(out[key])
    return out


def norms(tensors):
    return {n: np.linalg.norm(x) for n, x in tensors.items()}


def fingerprints(result):
    out = {}
    for kind, first in (("gradient", 0), ("running", 500000)):
        for number, (name, x) in enumerate(result[kind].items()):
            if x.size <= SMALL:
                out[f"{kind}/{name}"] = x
            else:
                out[f"{kind}_projections/{name}"] = values.projections(x, first + number)
    return out


def fingerprint_error(got, reference, kind, scales):
    """Largest error of a tensor as the tests estimate it, divided by its scale."""
    worst = 0.0
    for name, scale in scales.items():
        key = f"{kind}/{name}"
        if key in reference:
            error = np.linalg.norm(got[key] - reference[key])
        else:
            key = f"{kind}_projections/{name}"
            error = np.sqrt(np.mean((got[key] - reference[key]) ** 2))
        worst = max(worst, error / scale)
    return worst


def b0_case(expand, resolution, proof):
    topology = "expand" if expand else "published"
    reference = run_b0(expand, resolution, REFERENCE)
    prints = fingerprints(reference)
    gradient_norms, running_norms = norms(reference["gradient"]), norms(reference["change"])
    total = np.linalg.norm(list(gradient_norms.values()))
    scales = {n: max(x, 1e-4 * total) for n, x in gradient_norms.items()}
    zeros = [n for n, x in gradient_norms.items() if x < 1e-4 * total]
    assert len(zeros) == 16 and all(gradient_norms[n] < 1e-13 * total for n in zeros)
    for variant in VARIANTS:
        got = run_b0(expand, resolution, variant)
        add = lambda what, *errors: proof.add(f"b0 {topology} {resolution}: {what}", *errors)
        add("logits", 1e-4, norm_error(got["logits"], reference["logits"]))
        errors = {n: np.linalg.norm(got["gradient"][n] - g) / scales[n]
                  for n, g in reference["gradient"].items()}
        add(f"{len(scales) - 16} gradients", 1e-3, max(e for n, e in errors.items() if n not in zeros))
        add("16 gradients that are 0", 1e-3, max(errors[n] for n in zeros))
        mine = fingerprints(got)
        add("all gradients, by fingerprint", 1e-3, fingerprint_error(mine, prints, "gradient", scales))
        add("running statistics", 1e-3,
            max(np.linalg.norm(got["running"][n] - b) / running_norms[n]
                for n, b in reference["running"].items()))
        add("running statistics, by fingerprint", 1e-3,
            fingerprint_error(mine, prints, "running", running_norms))
        for key in ("losses", "cross_entropies"):
            add(key, 1e-3, largest_error(got[key], reference[key]))
        add("eval_logits", 1e-4, norm_error(got["eval_logits"], reference["eval_logits"]))
    tensors = {k: reference[k] for k in ("logits", "losses", "cross_entropies", "eval_logits")} | {
        "gradient_norms": np.array(list(gradient_norms.values())),
        "running_norms": np.array(list(running_norms.values()))}
    write_safetensors(f"b0_{topology}_{resolution}", tensors | prints, {
        "model": "b0", "width": 1, "depth": 1, "resolution": resolution, "dropout": 0,
        "classes": values.CLASSES, "activation": "swish", "topology": TOPOLOGY[expand], "batch": 4,
        "seed": values.SEED, "momentum": MOMENTUM, "label_smoothing": SMOOTHING} | B0_STEPS)


# The narrow network.

def train(run, first, steps, batch, lr, weight_decay):
    """Training steps; returns the cross-entropies and decay terms before them."""
    terms = []
    for step in range(steps):
        images, labels = values.pictures(first + step * batch, batch)
        _, cross_entropy, decay_term = run.forward(images, labels, weight_decay)
        terms.append((cross_entropy.item(), decay_term.item()))
        run.backward(cross_entropy + decay_term)
        run.update(lr)
    return terms


def narrow_state():
    """After brief training, as float."""
    model = build(**NARROW, classes=values.CLASSES, expand=False, bn_momentum=0.1)
    initialise(model, False, gains=(1, 1))
    train(Run(model, REFERENCE), 0, **NARROW_TRAINING)
    return {n: x.float() if x.is_floating_point() else x for n, x in model.state_dict().items()}


def run_narrow(state, first, variant):
    model = build(**NARROW, classes=values.CLASSES, expand=False)
    model.load_state_dict(state)
    run = Run(model, variant)
    images, _ = values.pictures(first, NARROW_STEPS["batch"])
    out = {"eval_logits_before": run.infer(images)}
    terms = train(run, first, **NARROW_STEPS)
    out["eval_logits_after"] = run.infer(images)
    last = values.pictures(first + NARROW_STEPS["steps"] * NARROW_STEPS["batch"], NARROW_STEPS["batch"])
    terms.append([x.item() for x in run.forward(*last, NARROW_STEPS["weight_decay"])[1:]])
    out["cross_entropies"], out["decay_terms"] = np.array(terms).T
    out["losses"] = out["cross_entropies"] + out["decay_terms"]
    return out


def narrow_case(proof):
    state, first = narrow_state(), NARROW_TRAINING["steps"] * NARROW_TRAINING["batch"]
    reference = run_narrow(state, first, REFERENCE)
    for variant in VARIANTS:
        got = run_narrow(state, first, variant)
        for measure, key, tolerance in (
                (largest_error, "losses", 1e-3), (largest_error, "cross_entropies", 1e-3),
                (largest_error, "decay_terms", 1e-5), (norm_error, "eval_logits_before", 1e-4),
                (norm_error, "eval_logits_after", 1e-3)):
            proof.add(f"narrow: {key}", tolerance, measure(got[key], reference[key]))
    metadata = NARROW | {
        "model": "narrow", "resolution": values.PICTURE, "dropout": 0, "classes": values.CLASSES,
        "activation": "swish", "topology": TOPOLOGY[False], "label_offset": 0,
        "step": NARROW_TRAINING["steps"]}
    write_safetensors("narrow", {n: x.numpy() for n, x in state.items()}, metadata)
    write_safetensors("narrow_steps", reference, metadata | NARROW_STEPS | {
        "first_picture": first, "seed": values.SEED, "momentum": MOMENTUM, "label_smoothing": SMOOTHING})


# Files.

def write_safetensors(name, tensors, metadata):
    """By hand: the package writes metadata in random order. Eight-byte elements come first."""
    metadata = sorted((metadata | VERSIONS).items())
    header, data = {"__metadata__": {key: str(value) for key, value in metadata}}, b""
    kinds = {"float64": "F64", "float32": "F32", "int64": "I64"}
    for key, x in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        raw = np.ascontiguousarray(x).tobytes()
        header[key] = {"dtype": kinds[x.dtype.name], "shape": list(x.shape),
                       "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = os.path.join(FOLDER, name + ".safetensors")
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    back = safetensors.numpy.load_file(path)
    assert back.keys() == tensors.keys() and all(np.array_equal(back[k], tensors[k]) for k in back)


def write_json(name, lines, brackets):
    with open(os.path.join(FOLDER, name + ".json"), "w", encoding="ascii") as file:
        file.write(brackets[0] + "\n" + ",\n".join(lines) + "\n" + brackets[1] + "\n")


def rows(model):
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    return [[n, list(x.shape), kinds[x.dtype]] for n, x in model.state_dict().items()]


def fnv1a(model):
    """64 bits, of the lines "NAME [d,d,...]\\n" of a state_dict."""
    value = 0xCBF29CE484222325
    for name, shape, _ in rows(model):
        for byte in f"{name} [{','.join(map(str, shape))}]\n".encode():
            value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def count(model):
    return {"parameters": sum(p.numel() for p in model.parameters()),
            "buffers": sum(b.numel() for _, b in running_statistics(model)),
            "tensors": len(model.state_dict()), "trainable_tensors": len(list(model.parameters())),
            "state_dict_fnv1a": fnv1a(model)}


def write_names():
    names = ["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2"]
    models = {n: timm.create_model(f"tf_efficientnet_{n}", device="meta") for n in names}
    write_json("counts", [f'"{n}": {json.dumps(count(m))}' for n, m in models.items()], "{}")
    models["b0_expand"] = build(1.0, 1.0, 1000, True, device="meta")
    models["narrow_expand"] = build(**NARROW, classes=values.CLASSES, expand=True, device="meta")
    for n in ("b0", "b1", "b0_expand", "narrow_expand"):
        write_json(n + "_state_dict", [json.dumps(row) for row in rows(models[n])], "[]")
    # What build() makes is timm's model; the other topology has one convolution and batch norm more,
    # and in its first stage the names of all other stages.
    assert rows(build(1.0, 1.0, 1000, False, device="meta")) == rows(models["b0"])
    sizes = [count(models[n])["parameters"] for n in ("b0", "b0_expand")]
    assert sizes == [5288548, 5288548 + 32 * 32 + 2 * 32]
    block, other = models["b0_expand"].blocks[0][0], models["b0_expand"].blocks[1][0]
    assert isinstance(block, InvertedResidual) and block.se.conv_reduce.out_channels == 8
    assert block.state_dict().keys() == other.state_dict().keys()


def main():
    torch.use_deterministic_algorithms(True)
    os.makedirs(FOLDER, exist_ok=True)
    write_names()
    proof = Proof()
    for expand in (False, True):
        for resolution in (64, 65):  # maps of 32, 16, 8, 4, 2 pixels, and of 33, 17, 9, 5, 3
            b0_case(expand, resolution, proof)
    narrow_case(proof)
    if not proof.print():
        sys.exit("fp32 is not ten times inside a tolerance")


if __name__ == "__main__":
    main()
