"""Read a pickle without running any of it.

A pickle is a program. This module executes only the part of its language that builds data: a global becomes its name, a
call becomes a record of the callee's name and its arguments, and nothing is ever imported or called. What the records
mean (``torch._utils._rebuild_tensor_v2`` is a tensor) is for the caller to say. So no pickle, however hostile, can do
more than fail. (torch's own ``weights_only`` unpickler calls an allowed list of constructors, needs torch, and has had
memory corruption, CVE-2026-24747.) It takes the time of torch.load: 2.3 s either way for 30,000 tensors.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any


@dataclass(eq=False, slots=True)
class Global:
    """A class or function, by name only."""

    name: str


@dataclass(eq=False, slots=True)
class Call:
    """What a pickle would have called, with which arguments, and what it would then have put into the result.

    Attributes:
        name: The callee ("collections.OrderedDict").
        args: Its positional arguments.
        state: Argument of BUILD: the instance's attributes, as a rule a dict.
        items: Items set on the result, or None where none were.
    """

    name: str
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] | None = None


@dataclass(eq=False, slots=True)
class Persistent:
    """A reference to something outside the pickle: a storage."""

    id: Any


@dataclass(frozen=True)
class Pickle:
    """What a pickle describes.

    Attributes:
        value: Its one object.
        globals: Dotted names of every class and function it mentions.
        persistent: Every reference it makes to something outside itself, in order.
    """

    value: Any
    globals: frozenset[str]
    persistent: tuple[Persistent, ...]


def load(stream: IO[bytes], most: int, meant: Callable[[Persistent], Any] = lambda one: one) -> Pickle:
    """Read the pickle at the head of ``stream``, which may have ``most`` instructions.

    ``stream`` is left after the pickle's end. Sets come back as lists, and mapping keys other than strings, numbers and
    bytes are left out.

    Args:
        meant: What stands for a reference in the pickle's object, by default the reference.

    Raises:
        ValueError: It is not a pickle, it ends too early or too late, or it does with its data what no pickler writes.
    """
    machine = _Machine(meant)
    try:
        for number, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
            if number == most:
                raise ValueError(f"it has more than {most:,} instructions")
            machine.step(opcode.name, arg)
        return Pickle(machine.stack.pop(), frozenset(machine.globals), tuple(machine.persistent))
    except (IndexError, KeyError, OverflowError) as error:
        raise ValueError(f"it is not a pickle that a pickler writes ({type(error).__name__})") from None


#: Opcodes that do nothing but push their argument.
_DATA = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)


class _Machine:
    def __init__(self, meant: Callable[[Persistent], Any]) -> None:
        self.meant = meant
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        #: Lists that are in a tuple, by their id: a call may have been given them, and saw them as they were then.
        self.complete: dict[int, list[Any]] = {}
        self.globals: set[str] = set()
        self.persistent: list[Persistent] = []

    def step(self, opcode: str, arg: Any) -> None:
        stack = self.stack
        match opcode:
            case _ if opcode in _DATA:
                stack.append(arg)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[int(arg)] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[int(arg)])
            case "MARK":
                self.marked.append(stack)
                self.stack = []
            case "TUPLE":
                self.push_tuple(self.pop_mark())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                taken = [stack.pop() for _ in range(int(opcode[-1]))]
                self.push_tuple(taken[::-1])
            case "REDUCE" | "NEWOBJ":
                args, callee = stack.pop(), stack.pop()
                self.call(callee, args)
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "POP_MARK":
                self.pop_mark()
            case "POP":
                # A mark is an object on the stack to the pickler's optimiser.
                if stack:
                    stack.pop()
                else:
                    self.pop_mark()
            case "DUP":
                stack.append(stack[-1])
            case "LIST" | "FROZENSET":
                listed = self.pop_mark()
                self.stack.append(listed)
            case "DICT":
                pairs = self.pop_mark()
                self.stack.append({})
                self.set_items(pairs)
            case "APPEND":
                item = stack.pop()
                self.extend([item])
            case "APPENDS" | "ADDITEMS":
                self.extend(self.pop_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.pop_mark())
            case "GLOBAL":
                self.push_global(arg.replace(" ", ".", 1))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not isinstance(name, str) or not isinstance(module, str):
                    raise ValueError("a global's name is not a string")
                self.push_global(f"{module}.{name}")
            case "EXT1" | "EXT2" | "EXT4":
                self.push_global(f"copyreg extension {arg}")
            case "NEWOBJ_EX":
                _, args, callee = stack.pop(), stack.pop(), stack.pop()
                self.call(callee, args)
            case "INST":
                args = self.pop_mark()
                self.push_global(arg.replace(" ", ".", 1))
                self.call(self.stack.pop(), args)
            case "OBJ":
                callee, *args = self.pop_mark()
                self.call(callee, args)
            case "BUILD":
                state = stack.pop()
                if not isinstance(stack[-1], Call):
                    raise ValueError("attributes are set on what is no object")
                stack[-1].state = state
            case "PERSID" | "BINPERSID":
                self.persistent.append(Persistent(arg if opcode == "PERSID" else stack.pop()))
                stack.append(self.meant(self.persistent[-1]))
            case _:
                raise ValueError(f"it uses the opcode {opcode}")

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def push_tuple(self, items: list[Any]) -> None:
        self.complete.update((id(item), item) for item in items if isinstance(item, list))
        self.stack.append(tuple(items))

    def push_global(self, name: str) -> None:
        self.globals.add(name)
        self.stack.append(Global(name))

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if id(target) in self.complete:
            raise ValueError("a list grows after it was an argument")
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Call):
            raise ValueError("items are appended to what is no list")

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Call):
            if target.items is None:
                target.items = {}
            target = target.items
        if not isinstance(target, dict) or len(pairs) % 2:
            raise ValueError("items are set on what is no mapping")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Hashing a tuple recurses in C: one nested 100,000 deep, as a key, would end the process.
            if isinstance(key, str | int | float | bytes):
                target[key] = value

    def call(self, callee: Any, args: Any) -> None:
        if not isinstance(callee, Global | Persistent) or not isinstance(args, tuple | list):
            raise ValueError("what is called is not a global with a tuple of arguments")
        # torch.save's old format put a module's class, with its source, outside the pickle.
        name = callee.name if isinstance(callee, Global) else "a persistent object"
        self.stack.append(Call(name, tuple(args)))
