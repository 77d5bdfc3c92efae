"""A Markov chain over everything behind the pixels of one scan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..crystal import MONOLAYER_1H
from ..defects import DEFECTS, SITES, SPECIES
from .columns import Kernels, Sites, allowed_species, colours, site_conditional
from .coordinates import Coordinates
from .field import Field, Material, frequencies

__all__ = ["Chain"]

KINDS = MONOLAYER_1H.sites
CLASS = torch.tensor([DEFECTS.index(s.defect) for s in SPECIES])
SIZE = torch.tensor([sum(t.defect == s.defect and t.site == s.site for t in SPECIES) for s in SPECIES])
MIRROR = torch.tensor([
    next(j for j, t in enumerate(SPECIES) if t.is_mirror_of(s) and (t is not s or all(
        not u.is_mirror_of(s) for u in SPECIES if u is not s))) for s in SPECIES
])  # fmt: skip
NUM_FILM = 3
TRANSLATION = 0.1  # Å, unit of the coordinates of a common displacement
WIDE = 0.1  # Å, displacement of columns beside defects
DISORDER = torch.linspace(0.005, 0.08, 40)
SCATTER = torch.cat([torch.tensor([0.001]), torch.linspace(0.005, 0.15, 30)])
SCATTER_SCALE = 0.03


@dataclass(eq=False)
class Noise:
    """Variance = floor + slope times the expected intensity."""

    floor: float
    slope: float

    def variance(self, expected: Tensor) -> Tensor:
        return (self.floor + self.slope * expected).clamp(min=1e-9)


class Chain:
    """State of one chain."""

    def __init__(
        self,
        image: Tensor,
        geometry: Field,
        material: Material,
        coordinates: Coordinates,
        z: Tensor,
        sites: Sites,
        alpha: Tensor,
        seed: int,
        dose_prior=None,
    ) -> None:
        self.image, self.geometry, self.material = image, geometry, material
        self.coordinates, self.sites, self.alpha = coordinates, sites, alpha
        self.z = torch.cat([z, z.new_zeros(2)])
        self.rng = torch.Generator().manual_seed(seed)
        self.dose_prior = dose_prior
        ny, nx = image.shape
        x, y = geometry.axes
        self.film_columns = torch.stack([
            torch.ones(ny, nx),
            (x / x.abs().max()).expand(ny, nx),
            (y / y.abs().max())[:, None].expand(ny, nx),
        ])
        self.row_shift = torch.zeros(ny)
        self.jitter = 0.05
        self.signal, self.errors = 1.0, torch.zeros(len(SPECIES))
        self.additivity = 0.5
        self.disorder, self.scatter, self.share_wide = 0.03, 0.01, 0.1
        self.is_wide = torch.zeros(len(sites.kind), dtype=torch.bool)
        self.variance = torch.full_like(image, float(image.var()) * 0.3)
        self.noise = Noise(float(image.var()) * 0.3, 0.0)
        half_x, half_y = x.abs().max(), y.abs().max()
        reach = sites.positions.abs() - torch.stack([half_x, half_y])
        self.movable = (reach < 4.0).all(-1)
        self.inside = (reach < 0.5 * geometry.sampling).all(-1)
        self.colours = [c[self.movable[c]] for c in colours(sites.positions)]
        self.colours = [c for c in self.colours if len(c)]
        self.field_shift = torch.zeros(10, 2)  # mean displacement: constant, x, y
        px, py = (sites.positions / torch.stack([half_x, half_y])).T
        self.basis = torch.stack([px**i * py**j for i in range(4) for j in range(4 - i)], -1)
        self.abundance = alpha / alpha.sum(-1, keepdim=True)
        self.probability = torch.zeros(len(sites.kind), len(SPECIES))
        self.spectra = None
        self.accepted = [0, 0]
        self.step = 0.7
        self.adapting = True
        self.map = None

    # ---- images -------------------------------------------------------------------------------

    def normal(self, *shape: int, dtype=torch.float32) -> Tensor:
        return torch.randn(*shape, generator=self.rng, dtype=dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.rng)

    def place(self) -> None:
        """Structure factors of the columns where they stand."""
        s = self.sites
        self.factors = self.geometry.factors(s.positions + s.shift, 1 + s.excess, s.species)

    def spectra_at(self, z: Tensor) -> tuple[dict, Tensor]:
        """Shared variables, and spectra of the columns moved by the translation in z."""
        values = self.coordinates.values(z[None, :-2])
        spectra = self.geometry.spectra(values, self.material)[0]
        shift = z[-2:] * TRANSLATION
        if bool(shift.any()):
            qx, qy = frequencies(self.geometry.cell, self.geometry.num_modes)
            x, y = (-2 * math.pi * q * float(t) for q, t in zip((qx, qy), shift))
            spectra = spectra * (torch.polar(torch.ones_like(y), y)[:, None] * torch.polar(torch.ones_like(x), x))
        return values, spectra

    def render(self, spectra: Tensor) -> Tensor:
        """Images of the species that occur, shape (species, y, x)."""
        stacked = torch.stack([spectra[k] * f for k, f in self.factors.items()])
        return self.geometry.images(stacked, self.row_shift)

    def look(self) -> None:
        """Compute the images at the current state."""
        self.values, self.spectra = self.spectra_at(self.z)
        self.place()
        self.images = self.render(self.spectra)

    # ---- signal, film and errors of additivity --------------------------------------------------

    def error_size(self, values: Mapping[str, Tensor]) -> float:
        from ..simulation.spectra import _additivity_error

        size = _additivity_error(values["beam_energy"], values["inner_collection_angle"], values["tilt"])
        return max(float(size) * self.additivity, 1e-4)

    def regress(self, images: Tensor, values: Mapping[str, Tensor]):
        """Gaussian of the linear parameters: log evidence, mean, Cholesky factor of precision."""
        design = torch.cat([images.sum(0, keepdim=True), images, self.film_columns]).flatten(1).double()
        weight = (1 / self.variance).flatten().double()
        size = self.error_size(values) * self.signal
        prior = torch.full((len(design),), 1e-12, dtype=torch.float64)
        prior[1 : 1 + len(images)] = 1 / size**2
        weighted = design * weight
        gram = weighted @ design.T
        dot = weighted @ self.image.flatten().double()
        factor = torch.linalg.cholesky(gram + torch.diag(prior))
        mean = torch.cholesky_solve(dot[:, None], factor)[:, 0]
        evidence = 0.5 * (dot @ mean) - factor.diagonal().log().sum() + 0.5 * prior[1:-NUM_FILM].log().sum()
        return float(evidence), mean, factor, design

    def fitted(self, design: Tensor, mean: Tensor) -> Tensor:
        return (mean @ design).view(self.image.shape).float()

    def draw_linear(self, fit=False) -> None:
        """Draw signal, errors of additivity and film."""
        _, mean, factor, design = self.regress(self.images, self.values)
        if not fit:
            noise = self.normal(len(mean), 1, dtype=torch.float64)
            mean = mean + torch.linalg.solve_triangular(factor.T, noise, upper=True)[:, 0]
        self.signal = float(mean[0])
        size = self.error_size(self.values)
        self.errors = self.normal(len(SPECIES)) * size * (not fit)
        used = list(self.factors)
        self.errors[used] = (mean[1 : 1 + len(used)] / self.signal).float()
        self.film = mean[-NUM_FILM:].float()
        self.expected = self.fitted(design, mean)
        if not fit:  # additivity given the errors of the species in use: half-normal prior
            grid = torch.linspace(0.02, 3.0, 60)
            sizes = grid * size / self.additivity
            e = self.errors[used]
            logp = -0.5 * grid**2 - len(used) * sizes.log() - 0.5 * (e**2).sum() / sizes**2
            self.additivity = float(grid[torch.multinomial(logp.softmax(0), 1, generator=self.rng)])

    # ---- shared variables -----------------------------------------------------------------------

    def target(self, z: Tensor):
        """Log marginal density of shared variables, linear parameters integrated out."""
        prior = float(self.coordinates.log_prior(z[None, :-2]))
        if prior == -math.inf:
            return -math.inf, None, None, None, None
        values, spectra = self.spectra_at(z)
        images = self.render(spectra)
        evidence, mean, _, design = self.regress(images, values)
        prior -= 0.5 * float(z[-2:].square().sum())
        return evidence + prior, self.fitted(design, mean), spectra, images, values

    def linearise(self) -> None:
        """Slopes of the fitted image, and the inverse Hessian."""
        here, fitted, *_ = self.target(self.z)
        slopes = []
        for i in range(len(self.z)):
            for h in (0.02, -0.02):
                z = self.z.clone()
                z[i] += h
                there, moved, *_ = self.target(z)
                if moved is not None:
                    break
            slopes.append(((moved - fitted) / h).flatten())
        self.slopes = torch.stack(slopes)
        self._precondition()

    def _precondition(self) -> None:
        weight = (1 / self.variance).flatten()
        self.weighted = self.slopes * weight
        hessian = (self.weighted @ self.slopes.T).double()
        hessian += torch.eye(len(self.z), dtype=torch.float64)
        self.hessian = hessian
        self.cov = torch.linalg.inv(hessian)
        self.cov_factor = torch.linalg.cholesky(self.cov)

    def climb(self, rounds: int = 8, clip: float = 4.0) -> float:
        """Find the nearest mode by Levenberg and Marquardt."""
        damping = 1e-2
        best, fitted, spectra, images, values = self.target(self.z)
        for _ in range(rounds):
            self.linearise()
            rest = (self.image - fitted) / self.variance.sqrt()
            rest = rest.clamp(-clip, clip) * self.variance.sqrt()
            gradient = (self.weighted @ rest.flatten()).double() - self.z
            for _ in range(6):
                h = self.hessian + damping * torch.diag(self.hessian.diagonal())
                step = torch.linalg.solve(h, gradient).clamp(-0.7, 0.7)
                found = self.target(self.z + step)
                if found[0] > best:
                    break
                damping *= 6
            else:
                break
            gain = found[0] - best
            self.z = self.z + step
            best, fitted, spectra, images, values = found
            damping = max(damping / 5, 1e-5)
            if gain < 0.5:
                break
        self.spectra, self.images, self.values = spectra, images, values
        self.settle()
        self.linearise()
        return best

    def drift(self, found, z) -> Tensor:
        """Half a preconditioned step along the gradient, for a step of one."""
        rest = (self.image - found[1]).flatten()
        return 0.5 * (self.cov @ ((self.weighted @ rest).double() - z))

    def move(self, num: int = 1) -> None:
        """Metropolis steps along the gradient, preconditioned, of random sizes."""
        here = self.target(self.z)
        d_here = self.drift(here, self.z)
        for _ in range(num):
            size = self.step * (0.1 if float(self.uniform(1)) < 0.2 else 1.0)
            xi = self.normal(len(self.z), dtype=torch.float64)
            z = self.z + size**2 * d_here + size * (self.cov_factor @ xi)
            there = self.target(z)
            ratio = -math.inf
            if there[0] > -math.inf:
                d_there = self.drift(there, z)
                back = torch.linalg.solve_triangular(
                    self.cov_factor, (self.z - z - size**2 * d_there)[:, None], upper=False
                )[:, 0] / size
                ratio = there[0] - here[0] - 0.5 * float(back @ back) + 0.5 * float(xi @ xi)
            accept = math.log(float(self.uniform(1)) + 1e-30) < ratio
            if size == self.step:
                self.accepted[1] += 1
                self.accepted[0] += accept
                if self.adapting:
                    self.step *= math.exp(0.15 * (min(1.0, math.exp(min(ratio, 0.0))) - 0.5))
                    self.step = min(max(self.step, 0.03), 1.4)
            if accept:
                self.z, here, d_here = z, there, d_there
        self.log_target, _, self.spectra, self.images, self.values = here
        self.settle()

    def settle(self) -> None:
        """Move all columns by the translation, so that it is zero again."""
        shift = (self.z[-2:] * TRANSLATION).float()
        if not bool(shift.any()):
            return
        self.sites.shift += shift
        self.field_shift[0] += shift
        self.z[-2:] = 0
        self.look()

    # ---- noise and rows ---------------------------------------------------------------------------

    def dose(self, slope: float) -> float:
        size = self.geometry.sampling * (1 + float(self.values["strain"]))
        return self.signal / (max(slope, 1e-12) * size**2)

    def draw_noise(self, num: int = 6, fit=False) -> None:
        rest2 = (self.image - self.expected).square().flatten().double()
        mu = self.expected.flatten().double()
        if fit:
            # weighted regression of the squares
            for _ in range(3):
                v = self.variance.flatten().double()
                ok = rest2 < 25 * v
                X = torch.stack([torch.ones_like(mu), mu])[:, ok]
                w = 1 / v[ok] ** 2
                sol = torch.linalg.solve((X * w) @ X.T, (X * w) @ rest2[ok])
                self.noise = Noise(float(sol[0]), max(float(sol[1]), 1e-9))
                low = float(mu.quantile(0.002)) if len(mu) < 1e7 else float(mu.min())
                floor_at_low = self.noise.floor + self.noise.slope * low
                least = 0.05 * float(rest2.mean())
                if floor_at_low < least:
                    self.noise.floor += least - floor_at_low
                self.variance = self.noise.variance(self.expected)
            return

        def log_target(p):
            slope = math.exp(p[1])
            v = p[0] + slope * mu
            if float(v.min()) <= 0:
                return -math.inf
            value = -0.5 * float((rest2 / v + v.log()).sum())
            if self.dose_prior is not None:
                value += self.dose_prior(self.dose(slope))
            return value

        p = np.array([self.noise.floor, math.log(self.noise.slope)])
        v = self.variance.flatten().double()
        d = torch.stack([torch.ones_like(mu), self.noise.slope * mu]) / v
        fisher = (0.5 * d @ d.T).numpy() + np.diag([1e-9, 0.05])
        factor = np.linalg.cholesky(np.linalg.inv(fisher))
        here = log_target(p)
        for _ in range(num):
            q = p + 1.6 * factor @ self.normal(2).double().numpy()
            there = log_target(q)
            if math.log(float(self.uniform(1)) + 1e-30) < there - here:
                p, here = q, there
        self.noise = Noise(float(p[0]), math.exp(p[1]))
        self.variance = self.noise.variance(self.expected)

    def total_spectrum(self) -> Tensor:
        return sum(self.spectra[k] * f * (1 + self.errors[k]) for k, f in self.factors.items())

    def draw_rows(self, fit=False) -> None:
        """Draw the displacement of every scan row."""
        total = self.total_spectrum() * self.signal
        slope = self.geometry.images(self.geometry.slope_x(total), self.row_shift)
        rest = self.image - self.expected
        precision = (slope.square() / self.variance).sum(-1) + 1 / self.jitter**2
        gradient = (slope * rest / self.variance).sum(-1) - self.row_shift / self.jitter**2
        change = gradient / precision
        if not fit:
            change = change + self.normal(len(change)) / precision.sqrt()
        self.row_shift = (self.row_shift + change).clamp(-0.5, 0.5)
        grid = torch.linspace(0.01, 0.2, 60)
        logp = -len(change) * grid.log() - 0.5 * self.row_shift.square().sum() / grid**2
        self.jitter = float(grid[torch.multinomial(logp.softmax(0), 1, generator=self.rng)])
        self.images = self.render(self.spectra)

    # ---- sites --------------------------------------------------------------------------------------

    def sweep(self, fit=False) -> None:
        """Draw species, displacement and amplitude of every site."""
        s, g = self.sites, self.geometry
        kernels = Kernels.of(g, self.values, self.material)
        h = kernels.half
        pad = 4 * h + 8
        ny, nx = self.image.shape
        width = nx + 2 * pad
        rest = torch.nn.functional.pad(self.image - self.expected, (pad,) * 4).flatten()
        weight = torch.nn.functional.pad(1 / self.variance, (pad,) * 4).flatten()
        rows = torch.nn.functional.pad(self.row_shift, (pad, pad))
        window = torch.arange(-h, h + 1)
        flat_window = (window[:, None] * width + window).flatten()
        amplitude = self.signal * (1 + self.errors)
        mean_shift = self.basis @ self.field_shift
        sd = torch.where(self.is_wide, math.hypot(self.disorder, WIDE), torch.tensor(self.disorder))
        log_abundance = (self.abundance.clamp(min=1e-30)).log()
        centre = torch.tensor([(nx - 1) / 2, (ny - 1) / 2])
        for colour in self.colours:
            for kind, name in enumerate(KINDS):
                mine = colour[s.kind[colour] == kind]
                if not len(mine):
                    continue
                allowed = allowed_species(name)
                place = (s.positions[mine] + s.shift[mine]) / g.sampling + centre
                found, base = kernels.at(allowed, place)
                index = ((base[:, 1] + pad) * width + base[:, 0] + pad)[:, None] + flat_window
                turn = rows[(base[:, 1] + pad)[:, None] + window]  # shift of the rows of the window
                turn = turn.repeat_interleave(2 * h + 1, -1)
                # a row displaced along x sees the column displaced the other way
                found[:, :, 0] -= turn[:, None] * found[:, :, 1]
                found = found * amplitude[allowed][:, None, None]
                w = weight[index]
                now = (allowed == s.species[mine][:, None]).long().argmax(1)
                at = torch.arange(len(mine))
                present = found[at, now, 0] * (1 + s.excess[mine])[:, None]
                r0 = rest[index] + present
                precision = torch.stack([1 / sd[mine] ** 2] * 2 + [torch.full((len(mine),), 1 / self.scatter**2)], -1)
                mean = torch.cat([mean_shift[mine] - s.shift[mine], torch.zeros(len(mine), 1)], -1)
                logp, location, factor = site_conditional(found, r0, w, mean, precision)
                logp = logp + log_abundance[kind][CLASS[allowed]] - SIZE[allowed].log()
                prob = logp.softmax(-1)
                self.probability[mine] = 0
                self.probability[mine[:, None], allowed] = prob
                chosen = prob.argmax(-1) if fit else torch.multinomial(prob, 1, generator=self.rng)[:, 0]
                move = location[at, chosen]
                if not fit:
                    xi = self.normal(len(mine), 3, 1)
                    move = move + torch.linalg.solve_triangular(factor[at, chosen].mT, xi, upper=True)[..., 0]
                limit = torch.tensor([0.15, 0.15, 0.9])
                move = move.clamp(-limit, limit)
                new = found[at, chosen]
                made = new[:, 0] * (1 + move[:, 2:]) + new[:, 1] * move[:, :1] + new[:, 2] * move[:, 1:2]
                rest.index_add_(0, index.flatten(), (present - made).flatten())
                s.species[mine] = allowed[chosen]
                s.shift[mine] += move[:, :2]
                s.excess[mine] = move[:, 2]
        self._draw_hyper(sd, fit)

    def _draw_hyper(self, sd: Tensor, fit: bool) -> None:
        s = self.sites
        if fit:
            self.field_shift = self._mean_shift(sd, fit)
            s.shift[~self.movable] = (self.basis @ self.field_shift)[~self.movable]
            self._draw_abundance(fit)
            return
        filled = torch.tensor([bool(x.slots) for x in SPECIES])[s.species] & self.movable
        self.field_shift = mean = self._mean_shift(sd, fit)
        fixed = ~self.movable
        s.shift[fixed] = (self.basis @ mean)[fixed]
        own = (s.shift - self.basis @ mean)
        r2 = own.square().sum(-1)
        wide = math.hypot(self.disorder, WIDE)
        narrow = math.log(1 - self.share_wide) - 2 * math.log(self.disorder) - 0.5 * r2 / self.disorder**2
        broad = math.log(self.share_wide) - 2 * math.log(wide) - 0.5 * r2 / wide**2
        self.is_wide = self.uniform(len(r2)) < torch.sigmoid(broad - narrow)
        n = int((self.is_wide & filled).sum()), int((~self.is_wide & filled).sum())
        self.share_wide = float(np.clip(np.random.default_rng(int(self.uniform(1) * 2**31)).beta(1 + n[0], 5 + n[1]), 1e-3, 0.6))
        calm = filled & ~self.is_wide
        logp = -2 * int(calm.sum()) * DISORDER.log() - 0.5 * r2[calm].sum() / DISORDER**2
        self.disorder = float(DISORDER[torch.multinomial(logp.softmax(0), 1, generator=self.rng)])
        e2 = s.excess[filled].square().sum()
        logp = -int(filled.sum()) * SCATTER.log() - 0.5 * e2 / SCATTER**2 - 0.5 * (SCATTER / SCATTER_SCALE) ** 2
        self.scatter = float(SCATTER[torch.multinomial(logp.softmax(0), 1, generator=self.rng)])
        self._draw_abundance(fit)

    def _mean_shift(self, sd, fit):
        s = self.sites
        filled = torch.tensor([bool(x.slots) for x in SPECIES])[s.species] & self.movable
        weight = filled / sd**2
        gram = (self.basis.T * weight) @ self.basis + 100.0 * torch.eye(10)
        factor = torch.linalg.cholesky(gram)
        mean = torch.cholesky_solve((self.basis.T * weight) @ s.shift, factor)
        if not fit:
            mean = mean + torch.linalg.solve_triangular(factor.T, self.normal(10, 2), upper=True)
        return mean

    def _draw_abundance(self, fit):
        s = self.sites
        for kind in range(len(KINDS)):
            counts = torch.bincount(CLASS[s.species[self.inside & (s.kind == kind)]], minlength=len(DEFECTS))
            a = (self.alpha[kind] + counts).double()
            gamma = torch._standard_gamma(a, generator=self.rng) if not fit else a
            self.abundance[kind] = (gamma / gamma.sum()).float()

    # ---- modes

    def turned(self) -> None:
        """Turn the layer upside down."""
        self.sites.species = MIRROR[self.sites.species]

    def snapshot(self):
        s = self.sites
        return self.z.clone(), replace(s, species=s.species.clone(), shift=s.shift.clone(), excess=s.excess.clone()), self.row_shift.clone(), self.field_shift.clone()

    def restore(self, state) -> None:
        self.z, self.sites, self.row_shift, self.field_shift = state
        self.look()
        self.draw_linear(fit=True)

    def try_partners(self) -> None:
        """Go to the best of the modes that give nearly the same image."""
        best = self.climb(4)
        found = [(best, self.snapshot())]
        for z, upside_down in self.coordinates.partners(self.z[:-2]):
            self.restore(self._copy(found[0][1]))
            self.z = torch.cat([z, self.z[-2:]])
            if upside_down:
                self.turned()
            self.look()
            self.draw_linear(fit=True)
            found.append((self.climb(4), self.snapshot()))
        found.sort(key=lambda f: -f[0])
        if self.verbose:
            print("   partners", [round(f[0] - best, 1) for f in found])
        self.restore(found[0][1])
        self.linearise()

    def _copy(self, state):
        z, s, rows, shift = state
        return z.clone(), replace(s, species=s.species.clone(), shift=s.shift.clone(), excess=s.excess.clone()), rows.clone(), shift.clone()

    verbose = False

    # ---- loop -------------------------------------------------------------------------------------

    def start(self, rounds: int = 8, verbose=False) -> None:
        """Find a mode: shared variables and sites in turn."""
        self.look()
        self.verbose, last = verbose, -math.inf
        for k in range(rounds):
            self.disorder = max(0.1 * 0.6**k, 0.03)
            self.draw_linear(fit=True)
            self.draw_noise(fit=True)
            best = self.climb(8 if k == 0 else 3)
            self.draw_linear(fit=True)
            self.draw_noise(fit=True)
            for _ in range(2):
                self.draw_rows(fit=True)
                self.draw_linear(fit=True)
                self.sweep(fit=True)
                self.place()
                self.images = self.render(self.spectra)
                self.draw_linear(fit=True)
                self.draw_noise(fit=True)
            if verbose:
                chi = float(((self.image - self.expected) ** 2 / self.variance).mean())
                print(f"  round {k}: target {best:.1f} chi2 {chi:.3f} noise {self.noise} jitter {self.jitter:.3f} disorder {self.disorder:.3f} scatter {self.scatter:.3f} film {self.film}", flush=True)
            if k == 1:
                self.try_partners()
            if k > 1 and best - last < 20:
                break
            last = best
        self.try_partners()

    def iterate(self, moves: int = 1) -> None:
        self.sweep()
        self.place()
        self.images = self.render(self.spectra)
        self.move(moves)
        self.draw_linear()
        self.draw_noise()
        self.draw_rows()
        self.draw_linear()
