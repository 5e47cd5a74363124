"""Compiled steps on disk: found again, verified, and never believed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pair_energy import PairEnergy
from springs import spring_structure
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.data.padding import Buckets, Size
from hessgnn.errors import TrainingError
from hessgnn.potentials.base import PotentialConfig
from hessgnn.training import auto, compiled, recorded
from hessgnn.training.auto import NEVER, AutoStep
from hessgnn.training.build import build
from hessgnn.training.compiled import Identity, Program, Programs
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.loss_config import LossConfig
from hessgnn.training.part import Part
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.step import EagerStep
from hessgnn.training.trainer import Trainer, train

BUCKETS = Buckets(Size(3, 20, 60))
HERE = Path(__file__).parent


def make_potential(cutoff: float = 4.0) -> PairEnergy:
    return PairEnergy(PotentialConfig(cutoff=cutoff)).double()


def make_part(loss: Loss, seed: int = 0, names: Sequence[str] = ("H2O", "CH4")) -> Part:
    structures = [spring_structure(name, "train") for name in names]
    batch = Batch.from_structures(structures, 4.0, index=range(len(names)))
    (part,) = loss.parts(batch, Weights(0.3, 0.09), torch.Generator().manual_seed(seed))
    return part


def gradient(step: EagerStep, part: Part) -> Tensor:
    step.potential.zero_grad(set_to_none=True)
    step(part)
    return torch.stack([p.grad for p in step.trained.values() if p.grad is not None])


class Memory(Programs):
    """Programs that are traced and kept in this process, so that nothing is compiled."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.kept: dict[str, Program] = {}
        self.compiled = 0

    def holds(self, identity: Identity) -> bool:
        return identity.key in self.kept

    def load(self, identity: Identity) -> Program | None:
        return self.kept.get(identity.key)

    def remove(self, identity: Identity) -> None:
        self.kept.pop(identity.key, None)

    def compile(self, identity: Identity | None, graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Program:
        self.compiled += 1
        assert identity is not None

        @torch.no_grad()
        def program(inputs: Sequence[Tensor]) -> list[Tensor | None]:
            return graph(*inputs)

        self.kept[identity.key] = program
        return program

    def spoil(self, factor: float = 1.001) -> None:
        """Make every program a little wrong."""
        for key, program in self.kept.items():
            self.kept[key] = lambda inputs, program=program: [
                None if value is None else factor * value for value in program(inputs)
            ]


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "compiled")


class Background:
    """In place of the process that compiles: it has done so when it is looked at."""

    failure = ""

    def __init__(self, name: str, step: RecordedStep, padded: Part) -> None:
        self.name, self.step, self.padded = name, step, padded

    def poll(self) -> str | None:
        if not self.failure:
            RecordedStep(
                self.step.loss, self.step.potential, self.step.buckets, "compiled", self.step.programs
            ).prepare(self.padded)
        return self.failure

    def close(self) -> None: ...


@pytest.fixture
def background(monkeypatch: pytest.MonkeyPatch) -> type[Background]:
    monkeypatch.setattr(auto, "_Compiler", Background)
    monkeypatch.setattr(auto, "WORTH", -1.0)
    monkeypatch.setattr(Background, "failure", "")
    return Background


def test_another_seed_finds_the_program_and_does_not_trace(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, potential = Loss(LossConfig()), make_potential()
    part = make_part(loss)
    expected = gradient(EagerStep(loss, potential), part)
    torch.testing.assert_close(gradient(RecordedStep(loss, potential, BUCKETS, "compiled", memory), part), expected)
    assert memory.compiled == 1
    monkeypatch.setattr(recorded, "_trace", None)  # must not be asked
    other, part = make_potential(), make_part(loss, seed=1)
    with torch.no_grad():
        other.a.fill_(1.3)
    found = gradient(RecordedStep(loss, other, BUCKETS, "compiled", memory), part)
    torch.testing.assert_close(found, gradient(EagerStep(loss, other), part))
    assert memory.compiled == 1


def test_a_wrong_program_from_the_disk_is_compiled_again(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    loss, potential = Loss(LossConfig()), make_potential()
    part = make_part(loss)
    expected = gradient(RecordedStep(loss, potential, BUCKETS, "compiled", memory), part)

    def foreign(inputs: Sequence[Tensor]) -> list[Tensor | None]:
        return [*inputs[:1]]

    for spoil in (memory.spoil, lambda: memory.kept.update(dict.fromkeys(memory.kept, foreign))):
        spoil()
        again = gradient(RecordedStep(loss, potential, BUCKETS, "compiled", memory), part)
        torch.testing.assert_close(again, expected, rtol=1e-12, atol=0)
    assert memory.compiled == 3
    assert caplog.text.count("from the disk is wrong and is compiled again") == 2


def test_what_decides_a_program_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(potential: PairEnergy, loss: Loss, part: Part, threads: int = 1) -> str:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        step = RecordedStep(loss, potential, BUCKETS, "compiled")
        identity = step.identity(step.padded(part))
        assert identity is not None
        return identity.key

    potential, loss = make_potential(), Loss(LossConfig())
    part = make_part(loss)
    same = key(potential, loss, part)
    with torch.no_grad():
        potential.a.fill_(2.0)
    assert key(potential, loss, make_part(loss, seed=5)) == same
    assert key(potential, Loss(LossConfig(forces=2.0, hessian=0.5)), part) == same
    per_atom = Loss(LossConfig(energy_form="per_atom"))
    two = Loss(LossConfig.model_validate({"probes": {"number": 2}}))
    others = [
        key(potential, per_atom, part),
        key(potential, two, make_part(two)),
        key(make_potential(4.5), loss, part),
        key(potential, loss, part, threads=2),
    ]
    frozen = make_potential()
    frozen.a.requires_grad_(False)
    others.append(key(frozen, loss, part))
    changed = make_potential()
    vars(changed)["closed_form"] = False
    others.append(key(changed, loss, part))
    monkeypatch.setattr(compiled, "_source", lambda package: f"{package} was edited")
    others.append(key(make_potential(), loss, part))
    assert len({same, *others}) == 1 + len(others)


def test_a_class_without_a_source_file_is_not_kept(tmp_path: Path) -> None:
    potential, loss = make_potential(), Loss(LossConfig())
    potential.__class__ = type("Typed", (PairEnergy,), {"__module__": "__main__"})
    step = RecordedStep(loss, potential, BUCKETS, "compiled")
    main, file = sys.modules["__main__"], getattr(sys.modules["__main__"], "__file__", None)
    compiled._source.cache_clear()
    try:
        main.__file__ = None
        assert step.identity(step.padded(make_part(loss))) is None
    finally:
        main.__file__ = file
        compiled._source.cache_clear()


def make_auto(memory: Memory, **options: Any) -> tuple[AutoStep, EagerStep, Part]:
    loss, potential = Loss(LossConfig()), make_potential()
    return AutoStep(loss, potential, BUCKETS, 100, memory, **options), EagerStep(loss, potential), make_part(loss)


@pytest.mark.usefixtures("background")
def test_auto_changes_at_a_checkpoint_and_keeps_the_numbers(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    step, eager, part = make_auto(memory)
    expected = gradient(eager, part)
    for _ in range(8):
        assert torch.equal(gradient(step, part), expected)  # eager, to the digit
    assert memory.compiled == 1
    with caplog.at_level(logging.INFO, "hessgnn.training"):
        step.close()
        assert "step auto: eager, compiled steps came after the last checkpoint" in caplog.text
        assert list(step.settle(8).values()) == [8]
    assert "compiled from step 8" in caplog.text
    for _ in range(3):
        torch.testing.assert_close(gradient(step, part), expected, rtol=1e-10, atol=0)
    assert memory.compiled == 1
    # The same run, resumed: what was compiled is compiled, what is in the cache since then waits for a checkpoint.
    resumed, _, _ = make_auto(memory)
    resumed.restore(step.compiled)
    compiled_gradient = gradient(resumed, part)
    other, _, _ = make_auto(memory)
    other.restore({})
    assert torch.equal(gradient(other, part), expected)
    assert list(other.settle(12).values()) == [12]
    assert torch.equal(gradient(other, part), compiled_gradient)


def test_auto_says_that_it_stayed_eager(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    step, _, part = make_auto(memory)
    gradient(step, part)
    with caplog.at_level(logging.INFO, "hessgnn.training"):
        step.close()
    assert caplog.messages == ["step auto: eager, compiling would not have paid"]


@pytest.mark.usefixtures("background")
def test_auto_compiles_what_a_checkpoint_names_and_the_cache_has_lost(memory: Memory) -> None:
    step, _, part = make_auto(memory)
    for _ in range(8):
        gradient(step, part)
    state = step.settle(8)
    now = gradient(step, part)
    memory.kept.clear()
    resumed, _, _ = make_auto(memory)
    resumed.restore(state)
    assert torch.equal(gradient(resumed, part), now)
    assert memory.compiled == 2


def test_auto_starts_from_the_cache(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    step, eager, part = make_auto(memory)
    with caplog.at_level(logging.INFO, "hessgnn.training"):
        RecordedStep(step.loss, step.potential, BUCKETS, "compiled", memory).prepare(step.padded(part))
    assert "compiling the step for" in caplog.messages[0]
    assert caplog.messages[0].endswith(f"edges: minutes the first time, kept in {memory.folder}")
    torch.testing.assert_close(gradient(step, part), gradient(eager, part), rtol=1e-10, atol=0)
    assert list(step.compiled.values()) == [0]
    assert memory.compiled == 1


@pytest.mark.usefixtures("background")
def test_auto_stays_eager_where_the_program_is_wrong(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    step, eager, part = make_auto(memory)
    expected = gradient(eager, part)
    RecordedStep(step.loss, step.potential, BUCKETS, "compiled", memory).prepare(step.padded(part))
    memory.spoil()
    for _ in range(8):
        assert torch.equal(gradient(step, part), expected)
    assert list(step.settle(8).values()) == [NEVER]
    assert not memory.kept
    assert caplog.text.count("stays eager") == 1
    assert torch.equal(gradient(step, part), expected)


def test_auto_stays_eager_where_compiling_fails(
    memory: Memory, background: type[Background], caplog: pytest.LogCaptureFixture
) -> None:
    background.failure = "no compiler here"
    step, eager, part = make_auto(memory)
    for _ in range(10):
        assert torch.equal(gradient(step, part), gradient(eager, part))
    assert list(step.settle(10).values()) == [NEVER]
    assert caplog.text.count("no compiler here") == 1


def test_compiled_raises_where_auto_stays_eager(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, potential = Loss(LossConfig()), make_potential()
    step = RecordedStep(loss, potential, BUCKETS, "compiled", memory)
    monkeypatch.setattr(recorded, "_trace", lambda *_: 1 / 0)
    with pytest.raises(TrainingError, match="PairEnergy cannot be compiled: ZeroDivisionError"):
        step(make_part(loss))


def test_a_short_run_compiles_nothing(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_Compiler", None)  # must not be asked
    step, _, part = make_auto(memory)
    for _ in range(8):
        gradient(step, part)
    assert step.settle(8) == {}


@pytest.mark.usefixtures("background")
def test_an_auto_run_resumes_to_the_digit(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(tmp_path / "compiled")
    monkeypatch.setattr(auto, "Programs", lambda: memory)
    monkeypatch.setattr(recorded, "Programs", lambda: memory)
    monkeypatch.setattr(auto, "_MEASURED", 1)
    settings = {"dtype": "float64", "steps": 12}
    config = make_config(training={**settings, "step": "auto"})
    whole = train(config, tmp_path / "whole")
    assert memory.compiled
    assert all(step in (4, 8, 12) for step in whole.progress.compiled.values())
    eager = train(make_config(training=settings), tmp_path / "eager")
    for one, two in zip(eager.progress.curve, whole.progress.curve, strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-8)
    memory.kept.clear()

    class Killed(Exception): ...

    def kill(step: int, point: object) -> None:
        if step == 10:
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path / "part", observer=kill)
    setup = build(config)
    result = Trainer(setup, _run(tmp_path / "part"), resume=True).fit()
    assert [point.loss for point in result.progress.curve] == [point.loss for point in whole.progress.curve]
    assert result.progress.compiled.items() >= {n: s for n, s in whole.progress.compiled.items() if s < 12}.items()


def _run(folder: Path) -> Any:
    from hessgnn.training.run import Run

    return Run(folder)


# ---------------------------------------------------------------------------------------------------- files, Inductor


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Identity]:
    """One small program on disk."""
    folder = tmp_path_factory.mktemp("cache") / "compiled"
    graph = recorded._trace(lambda x, y: [x * y + 1, None], [torch.ones(3), torch.ones(3)])
    identity = Identity({"what": "a test", "shape": (3,)})
    os.umask(os.umask(0o002))
    Programs(folder).compile(identity, graph, [torch.ones(3), torch.ones(3)])
    return folder, identity


@pytest.fixture
def copy(kept: tuple[Path, Identity], tmp_path: Path) -> tuple[Programs, Identity, Path]:
    import shutil

    folder = tmp_path / "compiled"
    shutil.copytree(kept[0], folder)
    folder.chmod(0o700)
    return Programs(folder), kept[1], folder / kept[1].key


Copy = tuple[Programs, Identity, Path]


def test_a_program_is_loaded_without_a_compiler(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, identity, entry = copy
    monkeypatch.setattr("torch._inductor.cpp_builder.CppBuilder.build", None)  # must not be asked
    program = programs.load(identity)
    assert program is not None
    x, y = torch.arange(3.0), torch.full((3,), 2.0)
    values, nothing = program([x, y])
    assert values is not None
    torch.testing.assert_close(values, x * y + 1)
    assert nothing is None
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o022 for path in (programs.folder, entry, *entry.rglob("*")))


@pytest.mark.parametrize("fault", ["truncated", "changed", "missing", "foreign", "no manifest"])
def test_a_damaged_program_is_removed(copy: Copy, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    programs, identity, entry = copy
    victim = next(entry.rglob("*.so")) if fault == "missing" else entry / "program.bin"
    data = victim.read_bytes()
    if fault == "truncated":
        victim.write_bytes(data[: len(data) // 2])
    elif fault == "changed":
        victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif fault == "missing":
        victim.unlink()
    elif fault == "foreign":
        content = json.loads((entry / "manifest.json").read_bytes())
        (entry / "manifest.json").write_text(json.dumps({**content, "about": {"what": "another step"}}))
    else:
        (entry / "manifest.json").write_text("{")
    assert programs.load(identity) is None
    assert "cannot be loaded and is compiled again" in caplog.text
    assert not entry.exists()


@pytest.mark.parametrize("way", ["absolute", "up"])
def test_a_manifest_names_no_file_outside_of_its_folder(
    copy: Copy, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    programs, identity, entry = copy
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"secret")
    content = json.loads((entry / "manifest.json").read_bytes())
    name = str(foreign) if way == "absolute" else "../../foreign"
    content["files"][name] = hashlib.sha256(b"secret").hexdigest()
    (entry / "manifest.json").write_text(json.dumps(content))
    monkeypatch.setattr(compiled, "_write", None)  # must not be asked
    assert programs.load(identity) is None
    assert "does not lie in its folder" in caplog.text
    assert foreign.read_bytes() == b"secret"


def test_the_key_knows_the_sources_of_a_recorded_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import shutil

    package = tmp_path / "hessgnn"
    shutil.copytree(Path(compiled.__file__).parents[1], package, ignore=shutil.ignore_patterns("bundled", "*.pyc"))
    monkeypatch.setattr(compiled, "_PACKAGE", package)
    compiled._source.cache_clear()
    try:
        found = {compiled._source("hessgnn")}
        for name in ("recorded", "part", "loss"):
            with (package / "training" / f"{name}.py").open("a") as file:
                file.write("# edited\n")
            compiled._source.cache_clear()
            found.add(compiled._source("hessgnn"))
    finally:
        compiled._source.cache_clear()
    assert len(found) == 4


@pytest.mark.parametrize("where", ["folder", "file"])
def test_what_others_may_write_is_refused(copy: Copy, where: str, caplog: pytest.LogCaptureFixture) -> None:
    programs, identity, entry = copy
    victim = programs.folder if where == "folder" else entry / "program.bin"
    victim.chmod(0o777)
    assert programs.load(identity) is None
    assert programs.load(identity) is None
    assert caplog.text.count("another user may write here") == 1
    assert entry.exists()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no users here")
def test_what_belongs_to_another_user_is_refused(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    programs, identity, _ = copy
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert programs.load(identity) is None
    assert "another user may write here" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    programs, identity = Programs(tmp_path / "file" / "compiled"), Identity({"what": "a test"})
    graph = recorded._trace(lambda x: [x + 1], [torch.ones(3)])
    assert not programs.holds(identity)
    with programs.compiling(identity):
        program = programs.compile(identity, graph, [torch.ones(3)])
    torch.testing.assert_close(program([torch.ones(3)])[0], torch.full((3,), 2.0))
    assert caplog.text.count("compiled steps are not kept") == 1
    assert programs.load(identity) is None


def test_a_program_that_is_there_already_stays(copy: Copy) -> None:
    programs, identity, entry = copy
    before = (entry / "manifest.json").read_bytes()
    source = programs.folder.parent / "other"
    source.mkdir()
    (source / "program.bin").write_bytes(b"of the process that came second")
    programs._store(source, identity)
    assert (entry / "manifest.json").read_bytes() == before
    assert [path.name for path in programs.folder.iterdir()] == [identity.key]


def test_the_oldest_programs_are_removed(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, _, entry = copy
    os.utime(entry, (0, 0))
    source = programs.folder.parent / "other"
    source.mkdir()
    (source / "program.bin").write_bytes(bytes(1000))
    monkeypatch.setattr(compiled, "LIMIT", 5000)
    for name in ("second", "third"):
        programs._store(source, Identity({"what": name}))
    assert not entry.exists()
    assert programs.holds(Identity({"what": "second"}))
    assert programs.holds(Identity({"what": "third"}))


SCRIPT = """
import logging, sys
import torch
from hessgnn.training import recorded
from hessgnn.training.loss import Loss
from hessgnn.training.loss_config import LossConfig
from hessgnn.training.recorded import RecordedStep
from torch._inductor.cpp_builder import CppBuilder
from test_compiled import BUCKETS, EagerStep, gradient, make_part, make_potential
torch.set_num_threads(1)
counts = {"trace": 0, "build": 0}
def counting(name, function):
    def call(*arguments, **options):
        # Inductor also preprocesses a header in each process.
        counts[name] += name == "trace" or arguments[0].get_target_file_path().endswith(".so")
        return function(*arguments, **options)
    return call
recorded.make_fx = counting("trace", recorded.make_fx)
CppBuilder.build = counting("build", CppBuilder.build)
loss, potential = Loss(LossConfig()), make_potential()
part = make_part(loss, seed=int(sys.argv[1]))
found = gradient(RecordedStep(loss, potential, BUCKETS, "compiled"), part)
torch.testing.assert_close(found, gradient(EagerStep(loss, potential), part))
print(counts["trace"], counts["build"] > 0)
"""


@pytest.mark.slow
def test_a_second_process_starts_from_the_cache(tmp_path: Path) -> None:
    path = os.pathsep.join([str(HERE), *(p for p in sys.path if p)])
    environment = {**os.environ, "HESSGNN_CACHE": str(tmp_path), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def run(seed: int) -> str:
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(seed)]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    assert run(0) == "1 True"
    assert run(1) == "0 False"


def test_a_process_that_waits_for_its_parent_ends_in_order() -> None:
    script = "import threading, time\nfrom hessgnn.training.auto import _end_with_parent\n"
    script += "threading.Thread(target=_end_with_parent, daemon=True).start()\ntime.sleep(0.3)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-W", "ignore", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        assert process.wait() == 0  # its standard input is open meanwhile


@pytest.mark.slow
def test_auto_compiles_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "WORTH", -1.0)
    loss, potential = Loss(LossConfig()), make_potential()
    step, part = AutoStep(loss, potential, BUCKETS, 100, Programs(tmp_path / "compiled")), make_part(loss)
    expected = gradient(EagerStep(loss, potential), part)
    for _ in range(6):
        gradient(step, part)
    assert step._compiler is not None
    step._compiler._process.wait(timeout=600)
    gradient(step, part)
    assert list(step.settle(7).values()) == [7]
    monkeypatch.setattr(recorded, "_trace", None)  # must not be asked
    for _ in range(3):
        torch.testing.assert_close(gradient(step, part), expected)
    step.close()


@pytest.mark.slow
def test_the_process_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "WORTH", -1.0)
    loss, potential = Loss(LossConfig()), make_potential()
    step, part = AutoStep(loss, potential, BUCKETS, 100, Programs(tmp_path / "compiled")), make_part(loss)
    for _ in range(6):
        gradient(step, part)
    assert step._compiler is not None
    process = step._compiler._process
    assert process.poll() is None
    step.close()
    assert process.poll() is not None
