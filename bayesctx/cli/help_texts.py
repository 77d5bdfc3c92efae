"""The help texts of the command line, by verb."""

from __future__ import annotations

import textwrap

from ..context import CONTEXT

__all__ = ["HELP"]

UNITS = textwrap.fill(f"Variables and units: {', '.join(v.label for v in CONTEXT.values())}.", 98)

HELP = {
    "bayesctx": f"""Posteriors of defects in STEM images of doped two-dimensional materials:
what is given is conditioned on, what is left out is inferred.

{UNITS}

exit code:
  0 done, 1 input refused, 2 wrong usage, 130 interrupted

examples:
  bayesctx demo
  bayesctx infer scan.nc --context host=WSe2 beam_energy=80e3 --out result.nc
  bayesctx infer --help""",
    "simulate": f"""Simulate labelled patches, or a labelled micrograph, and write them as netCDF.

Everything is drawn from a prior: in 'reference' beam energy and angles vary freely, 'tmd' has the
576 cases, 'limit' and 'between' are narrower, for benchmarks. What --context fixes is not drawn.
Patch i of a seed is always the same: --start continues where another run ended.

--out FILE.nc is one file. A name without an ending is a folder: shards of 65536 patches (150 MB)
and manifest.json, with the prior and the checksum of every shard. A run that was killed continues
when the same command is given again; one that the disk cannot hold does not begin. --dry-run
prints size and time. bayesctx.archive.open_shards reads the folder.

{UNITS}

examples:
  bayesctx simulate --num-patches 1000 --seed 0 --out patches.nc
  bayesctx simulate --num-patches 1000 --start 1000 --prior tmd --context host=WSe2 --out more.nc
  bayesctx simulate --num-patches 55e6 --patches-per-image 16 --out patches --dry-run
  bayesctx simulate --micrograph --num-pixels 512 --context host=MoS2 dopant=V,Nb --out image.nc""",
    "train": """Train a model on patches that are simulated meanwhile, and write it as safetensors.

--checkpoint names a file that holds the state of the run: a run that was killed continues when the
same command is given again. The loss is minus the log probability of the true class, in nats, over
random subsets of known context. Afterwards patches that were not trained on are used to fit how
strongly patches of one image are correlated, and to score the model. Several processes started by
torchrun share every batch and take the same steps as one; --batch-size is that of all together.

examples:
  bayesctx train --num-patches 10e6 --out model.safetensors --checkpoint run.checkpoint
  bayesctx train --num-patches 1e6 --prior tmd --model model.safetensors --out tmd.safetensors
  bayesctx train --num-patches 55e6 --device cuda --workers 8 --batch-size 4096 --contrast 256 \\
    --out model.safetensors
  torchrun --nproc-per-node 2 --no-python bayesctx train --num-patches 10e6 --workers 0 \\
    --threads 1 --out model.safetensors""",
    "infer": f"""Infer the defects of an image and the unknown part of its context.

Prints a summary and writes the posterior. The image is a netCDF or .npy file: a micrograph (y, x),
patches of one image (patch, y, x), or independent images (image, y, x). A context value is
  a number or a name   observed                   host=WSe2 beam_energy=80e3
  a comma list         one of these               dopant=Ti,V
  low..high            anywhere between the two   inner_collection_angle=60..110
and a variable that is left out is inferred. A micrograph needs host or sampling.

{UNITS}

examples:
  bayesctx infer image.nc --context host=WSe2 --out result.nc --plot result.png
  bayesctx infer scan.nc --select detector=ADF1 --context host=WSe2 dose=1e4..1e5 --out result.nc
  bayesctx infer image.npy --context sampling=0.2 dopant=Ti,V --num-draws 4000 --out result.nc""",
    "demo": """Simulate a micrograph, infer its defects twice, and compare both with the truth.

WSe2 doped with Ti, seen by a detector (35-90 mrad) on which a pair of selenium atoms is brighter
than tungsten. The defects are inferred with the host alone, and with the recorded context;
entropies and log scores are in bits per site.
Writes demo.nc, the posterior with the context, and demo.png.

examples:
  bayesctx demo
  bayesctx demo --out-dir results --model model.safetensors""",
}
