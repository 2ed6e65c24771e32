"""A slow GPU: runs PTX on arrays, all threads of a block in step, as far as the noise's kernels need it.

IEEE arithmetic is NumPy's. Each access to memory is checked: it must lie in the array whose address it was given.
An instruction that isn't known raises NotImplementedError.
"""

import re
from functools import lru_cache

import numpy as np

TYPES = {f"{kind}{bits}": np.dtype(f"u{bits // 8}") for kind in "bu" for bits in (16, 32, 64)}
TYPES |= {f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (16, 32, 64)}
TYPES |= {"f32": np.dtype("f4"), "f64": np.dtype("f8"), "pred": np.dtype("?")}
COMPARED = {"lt": np.less, "gt": np.greater, "ge": np.greater_equal, "le": np.less_equal}
COMPARED |= {"eq": np.equal, "ne": np.not_equal}
BITWISE = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
ARITHMETIC = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
ARITHMETIC |= {"min": np.minimum, "max": np.maximum}
ONE = {"abs": np.abs, "neg": np.negative, "sqrt": np.sqrt, "not": np.invert}


@lru_cache
def parsed(code):
    """Instructions as (guard, operation, operands), and where each label points."""
    start = code.index("{", code.index(".entry")) + 1
    body = re.sub(r"//[^\n]*", "", code[start : code.index("\n}", start)])
    instructions, labels = [], {}
    for line in filter(None, map(str.strip, re.split(r"[;\n]", body))):
        found = re.fullmatch(r"(?:@(!?%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)", line)
        if found:
            operands = [part.strip() for part in re.findall(r"\s*(\{[^}]*\}|[^,]+)", found[3])]
            operands = [part if "," in part else part.strip("{} ") for part in operands]
            instructions.append((found[1], found[2].replace("::cta", "").split("."), operands))
        elif line.endswith(":"):
            labels[line[:-1]] = len(instructions)
        elif not line.startswith("."):
            raise NotImplementedError(line)
    return instructions, labels


class Block:
    """One block of threads; registers hold bits."""

    def __init__(self, number, threads, arrays, numbers):
        self.special = {"%tid.x": np.arange(threads), "%ctaid.x": np.full(threads, number)}
        self.threads, self.arrays, self.numbers = threads, arrays, numbers
        self.shared, self.registers = np.zeros(4096, np.uint8), {}

    def value(self, operand, kind):
        kind = TYPES[kind]
        if operand in self.special:
            return self.special[operand].astype(kind)
        if operand.startswith("%"):
            # What was never written is anything.
            bits = self.registers.get(operand, np.full(self.threads, 0xDEAD, np.uint64).astype(kind))
            if bits.itemsize != kind.itemsize:
                raise NotImplementedError(f"{operand} of {8 * bits.itemsize} bits as {kind}")
            return bits.view(kind)
        if operand == "global_smem":
            return np.zeros(self.threads, kind)
        if operand[:2] in ("0d", "0f"):
            bits = np.array(int(operand[2:], 16), f"u{kind.itemsize}")
        else:
            bits = np.array(int(operand, 0) % 2 ** (8 * kind.itemsize), f"u{kind.itemsize}")
        return np.full(self.threads, bits.view(kind))

    def write(self, operand, values, active):
        bits = values if values.dtype == bool else values.view(f"u{values.dtype.itemsize}")
        old = self.registers.get(operand)
        if old is None or active.all():
            old = bits
        self.registers[operand] = np.where(active, bits, old)

    def run(self, code):
        instructions, labels = parsed(code)
        place = 0
        while place < len(instructions):
            guard, operation, operands = instructions[place]
            place += 1
            active = np.ones(self.threads, bool)
            if guard:
                active = self.registers[guard.lstrip("!")] ^ guard.startswith("!")
            if operation[0] == "ret":
                return
            if operation[0] == "bra":
                if active.any() and not active.all():
                    raise NotImplementedError("threads that part")
                place = labels[operands[0]] if active.all() else place
            elif operation[0] in ("ld", "st"):
                self.memory(operation, operands, active)
            elif operation[0] == "mov" and "," in operands[0]:
                halves = self.value(operands[1], "u64")
                for part, half in zip(
                    operands[0].strip("{}").split(","), (halves, halves >> np.uint64(32)), strict=True
                ):
                    self.write(part.strip(), half.astype(np.uint32), active)
            elif operation[0] != "bar":
                self.write(operands[0], self.result(operation, operands[1:]), active)

    def memory(self, operation, operands, active):
        kind, space, loads = TYPES[operation[-1]], operation[1], operation[0] == "ld"
        address, register = (operands[1], operands[0]) if loads else (operands[0], operands[1])
        base, _, offset = address.strip("[] ").partition("+")
        if space == "param":
            number = self.numbers[int(base.rsplit("_", 1)[1])]
            return self.write(register, np.full(self.threads, number).astype(kind), active)
        there = self.value(base.strip(), "u64" if space == "global" else "u32").astype(np.int64) + int(offset or 0)
        array, there = self.array(there, active) if space == "global" else (self.shared, there)
        used = there[active]
        if used.size and not (used.min() >= 0 and used.max() + kind.itemsize <= array.nbytes):
            raise IndexError(f"{operation}: bytes {used.min()} to {used.max()} of {array.nbytes}")
        whole = array.view(np.uint8)[: array.nbytes // kind.itemsize * kind.itemsize].view(kind)
        if loads:
            values = np.zeros(self.threads, kind)
            values[active] = whole[used // kind.itemsize]
            self.write(register, values, active)
        else:
            whole[used // kind.itemsize] = self.value(register, operation[-1])[active]

    def array(self, addresses, active):
        (number,) = set((addresses[active] >> 40).tolist()) or {1}
        return self.arrays[number], addresses - (number << 40)

    def result(self, operation, operands):
        name, kind = operation[0], operation[-1]
        if name == "mov" and "," in operands[0]:
            low, high = (self.value(part.strip(), "u32").astype(np.uint64) for part in operands[0][1:-1].split(","))
            return low | high << np.uint64(32)
        if name == "mov":
            return self.value(operands[0], kind)
        if name == "setp":
            return COMPARED[operation[1]](*(self.value(operand, kind) for operand in operands))
        if name == "selp":
            one, other = (self.value(operand, kind) for operand in operands[:2])
            return np.where(self.value(operands[2], "pred"), one, other)
        if name in ("shl", "shr"):
            value, by = self.value(operands[0], kind), self.value(operands[1], "u32").astype(np.int64)
            width = 8 * value.itemsize
            shifted = (np.left_shift if name == "shl" else np.right_shift)(
                value, by.clip(0, width - 1).astype(value.dtype)
            )
            sign = value < 0 if name == "shr" else False
            return np.where(by < width, shifted, np.where(sign, -1, 0).astype(value.dtype))
        if name == "cvt" and (operation[1] == "rn") == (kind.startswith("f") or operation[-2].startswith("f")):
            return self.value(operands[0], kind).astype(TYPES[operation[-2]])
        if name == "bfe" and kind == "u64":
            value, start, length = (self.value(operand, "u64") for operand in operands)
            return (value >> start) & ((np.uint64(1) << length) - np.uint64(1))
        if name == "mul" and operation[1] in ("wide", "hi") and kind == "u32":
            product = np.multiply(*(self.value(operand, kind).astype(np.uint64) for operand in operands))
            return product if operation[1] == "wide" else (product >> np.uint64(32)).astype(np.uint32)
        if operation[:2] == ["redux", "sync"] and operation[2] == "max":
            best = self.value(operands[0], kind).reshape(-1, 32).max(1)
            return best.repeat(32)
        if operation[:3] == ["shfl", "sync", "bfly"]:
            partner = np.arange(self.threads) ^ self.value(operands[1], "u32").astype(np.int64)
            return self.value(operands[0], kind)[partner]
        rounded = operation[1] == "rn" or name in ("abs", "neg", "min", "max")
        known = len(operation) == 2 or (len(operation) == 3 and operation[1] in ("rn", "lo"))
        if known and rounded | (not kind.startswith("f")):
            function = {**ONE, **BITWISE, **ARITHMETIC}.get(name)
            if function is not None:
                return function(*(self.value(operand, kind) for operand in operands))
        raise NotImplementedError(".".join(operation))


def run(code, grid, arguments):
    """Launches a kernel: arguments are arrays and whole numbers."""
    threads = int(re.search(r"\.reqntid (\d+)", code)[1])
    arrays = {number + 1: array for number, array in enumerate(arguments) if isinstance(array, np.ndarray)}
    numbers = [
        np.uint64(number + 1 << 40) if number + 1 in arrays else np.uint64(argument % 2**64)
        for number, argument in enumerate(arguments)
    ]
    with np.errstate(all="ignore"):
        for block in range(grid):
            Block(block, threads, arrays, [*numbers, np.uint64(0), np.uint64(0)]).run(code)
