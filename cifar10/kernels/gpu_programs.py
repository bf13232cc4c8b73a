"""Programs for a GPU, in Triton: what a step of the default network computes between its convolutions.

Each program reads and writes a feature map as few times as possible. Features are channels last, seen as rows of C
channels; `TILE_C` is C rounded up to a power of two, and `TILE` the number of rows that are computed together. Sums
over all rows are made in two steps, always in the same order: each of `PARTS` programs sums its rows, then a program
called `*_end` combines the parts.

Importing this needs Triton; `gpu_layers` does so when it computes on a GPU.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

import triton
import triton.language as tl


@triton.jit
def silu(x):
    return x / (1 + tl.exp(-x))


@triton.jit
def resize(images, firsts, weights, out, num_pixels, stride_b, stride_c, stride_y, stride_x,
           SIDE: tl.constexpr, SIDE_OUT: tl.constexpr, TAPS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Average `TAPS` rows and columns from `firsts` on, with `weights` (SIDE_OUT, TAPS): float16 (B, S, S, 3)."""
    pixel = tl.program_id(0) * TILE + tl.arange(0, TILE)
    x, y, image = pixel % SIDE_OUT, pixel // SIDE_OUT % SIDE_OUT, pixel // (SIDE_OUT * SIDE_OUT)
    channel = tl.arange(0, 4)
    inside = (pixel < num_pixels)[:, None] & (channel < 3)[None, :]
    first_x, first_y = tl.load(firsts + x), tl.load(firsts + y)
    start = images + (image.to(tl.int64) * stride_b)[:, None] + (channel * stride_c)[None, :]
    total = tl.zeros((TILE, 4), tl.float32)
    for row in tl.static_range(TAPS):
        row_weight = tl.load(weights + y * TAPS + row)
        here_y = tl.minimum(first_y + row, SIDE - 1) * stride_y
        for column in tl.static_range(TAPS):
            weight = row_weight * tl.load(weights + x * TAPS + column)
            here = here_y + tl.minimum(first_x + column, SIDE - 1) * stride_x
            total += weight[:, None] * tl.load(start + here[:, None], inside, 0).to(tl.float32)
    tl.store(out + (pixel.to(tl.int64) * 3)[:, None] + channel[None, :], total.to(tl.float16), inside)


@triton.jit
def whiten(images, mean, std, filters, out, num_rows, stride_b, stride_c, stride_y, stride_x,
           SIDE: tl.constexpr, SIZE: tl.constexpr, C: tl.constexpr, C_OUT: tl.constexpr, TILE_C: tl.constexpr,
           TILE_K: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Normalise pixels, convolve with `filters` (C, 3, SIZE, SIZE), and activate."""
    NUM_K: tl.constexpr = 3 * SIZE * SIZE
    SIDE_OUT: tl.constexpr = SIDE - SIZE + 1
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    x, y, image = row % SIDE_OUT, row // SIDE_OUT % SIDE_OUT, row // (SIDE_OUT * SIDE_OUT)
    k, c = tl.arange(0, TILE_K), tl.arange(0, TILE_C)
    colour, dy, dx = k // (SIZE * SIZE), k // SIZE % SIZE, k % SIZE
    start = image.to(tl.int64) * stride_b + y * stride_y + x * stride_x
    places = images + start[:, None] + (colour * stride_c + dy * stride_y + dx * stride_x)[None, :]
    pixels = tl.load(places, (row < num_rows)[:, None] & (k < NUM_K)[None, :], 0).to(tl.float32)
    scale = 1 / tl.load(std + colour, k < NUM_K, 1)
    weights = tl.load(filters + c[None, :] * NUM_K + k[:, None], (c < C)[None, :] & (k < NUM_K)[:, None], 0).to(
        tl.float32
    )
    pixels = (pixels - tl.load(mean + colour, k < NUM_K, 0)[None, :]) * scale[None, :]
    result = silu(tl.dot(pixels, weights, input_precision="tf32"))
    inside = (row < num_rows)[:, None] & (c < C_OUT)[None, :]
    tl.store(out + (row.to(tl.int64) * C_OUT)[:, None] + c[None, :], result.to(out.dtype.element_ty), inside)


@triton.jit
def window(row, H: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return row and column of the first of the 2 x 2 pixels, and its number among all pixels."""
    x, y, image = row % COLUMNS, row // COLUMNS % ROWS, row // (ROWS * COLUMNS)
    return 2 * y, 2 * x, (image.to(tl.int64) * H + 2 * y) * W + 2 * x


@triton.jit
def moments(features, pooled, places, running_mean, parts, num_rows, PARTS: tl.constexpr, POOL: tl.constexpr,
            H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, TILE_C: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Write the sums of differences from `running_mean` and of their squares to `parts` (2, PARTS, C).

    With `POOL`, first take the largest of 2 x 2 pixels. `places` tells which of the four it was: 0, 1, 2 or 3.
    """
    c, part = tl.arange(0, TILE_C), tl.program_id(0)
    origin = tl.load(running_mean + c, c < C, 0)
    sums, squares = tl.zeros((TILE, TILE_C), tl.float32), tl.zeros((TILE, TILE_C), tl.float32)
    for start in range(part * TILE, num_rows, PARTS * TILE):
        row = start + tl.arange(0, TILE)
        inside = (row < num_rows)[:, None] & (c < C)[None, :]
        offset = (row.to(tl.int64) * C)[:, None] + c[None, :]
        if POOL:
            _, _, pixel = window(row, H, W, H // 2, W // 2)
            corner = features + (pixel * C)[:, None] + c[None, :]
            largest, place = tl.load(corner, inside, 0).to(tl.float32), tl.zeros((TILE, TILE_C), tl.uint8)
            for number in tl.static_range(1, 4):
                other = tl.load(corner + (number // 2 * W + number % 2) * C, inside, 0).to(tl.float32)
                place = tl.where(other > largest, number, place).to(tl.uint8)
                largest = tl.where(other > largest, other, largest)
            tl.store(pooled + offset, largest.to(pooled.dtype.element_ty), inside)
            tl.store(places + offset, place, inside)
            x = largest
        else:
            x = tl.load(features + offset, inside, 0).to(tl.float32)
        difference = tl.where(inside, x - origin[None, :], 0)
        sums += difference
        squares += difference * difference
    tl.store(parts + part * C + c, tl.sum(sums, axis=0), c < C)
    tl.store(parts + (PARTS + part) * C + c, tl.sum(squares, axis=0), c < C)


@triton.jit
def moments_end(parts, statistics, running_mean, running_var, num_rows, momentum, eps, PARTS: tl.constexpr,
                C: tl.constexpr, TILE_C: tl.constexpr):  # fmt: skip
    """Write mean and 1 / deviation to `statistics` (2, C), and update the running statistics."""
    c, part = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C), tl.arange(0, PARTS)
    at = parts + part[:, None] * C + c[None, :]
    inside = (c < C)[None, :] & (part >= 0)[:, None]
    count = num_rows.to(tl.float32)
    difference = tl.sum(tl.load(at, inside, 0), axis=0) / count
    square = tl.sum(tl.load(at + PARTS * C, inside, 0), axis=0) / count
    old_mean, old_var = tl.load(running_mean + c, c < C, 0), tl.load(running_var + c, c < C, 0)
    variance = tl.maximum(square - difference * difference, 0)
    tl.store(statistics + c, old_mean + difference, c < C)
    tl.store(statistics + C + c, 1 / tl.sqrt(variance + eps), c < C)
    tl.store(running_mean + c, old_mean + momentum * difference, c < C)
    unbiased = variance * (count / tl.maximum(count - 1, 1))
    tl.store(running_var + c, old_var + momentum * (unbiased - old_var), c < C)


@triton.jit
def activate(features, statistics, shift, out, num_rows, POOL: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
             C: tl.constexpr, TILE_C: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Normalise, shift and activate; with `POOL`, the largest of 2 x 2 pixels."""
    c, row = tl.arange(0, TILE_C), tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = (row < num_rows)[:, None] & (c < C)[None, :]
    offset = (row.to(tl.int64) * C)[:, None] + c[None, :]
    if POOL:
        _, _, pixel = window(row, H, W, H // 2, W // 2)
        corner = features + (pixel * C)[:, None] + c[None, :]
        x = tl.load(corner, inside, 0).to(tl.float32)
        for number in tl.static_range(1, 4):
            x = tl.maximum(x, tl.load(corner + (number // 2 * W + number % 2) * C, inside, 0).to(tl.float32))
    else:
        x = tl.load(features + offset, inside, 0).to(tl.float32)
    mean, scale = tl.load(statistics + c, c < C, 0), tl.load(statistics + C + c, c < C, 0)
    z = (x - mean[None, :]) * scale[None, :] + tl.load(shift + c, c < C, 0)[None, :]
    tl.store(out + offset, silu(z).to(out.dtype.element_ty), inside)


@triton.jit
def gradient_of_normalized(features, gradient, statistics, shift, offset, inside, c, C: tl.constexpr):
    """Return the gradient before activation and shift, and the normalised features."""
    mean, scale = tl.load(statistics + c, c < C, 0), tl.load(statistics + C + c, c < C, 0)
    x = tl.load(features + offset, inside, 0).to(tl.float32)
    normalized = (x - mean[None, :]) * scale[None, :]
    z = normalized + tl.load(shift + c, c < C, 0)[None, :]
    sigmoid = 1 / (1 + tl.exp(-z))
    slope = sigmoid * (1 + z * (1 - sigmoid))
    return tl.load(gradient + offset, inside, 0).to(tl.float32) * slope, normalized


@triton.jit
def gradient_sums(features, gradient, statistics, shift, parts, num_rows, PARTS: tl.constexpr, C: tl.constexpr,
                  TILE_C: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Write the sums of dz and of dz times the normalised features to `parts` (2, PARTS, C)."""
    c, part = tl.arange(0, TILE_C), tl.program_id(0)
    sums, products = tl.zeros((TILE, TILE_C), tl.float32), tl.zeros((TILE, TILE_C), tl.float32)
    for start in range(part * TILE, num_rows, PARTS * TILE):
        row = start + tl.arange(0, TILE)
        inside = (row < num_rows)[:, None] & (c < C)[None, :]
        offset = (row.to(tl.int64) * C)[:, None] + c[None, :]
        dz, normalized = gradient_of_normalized(features, gradient, statistics, shift, offset, inside, c, C)
        sums += dz
        products += dz * normalized
    tl.store(parts + part * C + c, tl.sum(sums, axis=0), c < C)
    tl.store(parts + (PARTS + part) * C + c, tl.sum(products, axis=0), c < C)


@triton.jit
def gradient_sums_end(parts, sums, PARTS: tl.constexpr, C: tl.constexpr, TILE_C: tl.constexpr):
    """Combine the parts to `sums`, (2, C)."""
    c, part = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C), tl.arange(0, PARTS)
    at = parts + part[:, None] * C + c[None, :]
    inside = (c < C)[None, :] & (part >= 0)[:, None]
    tl.store(sums + c, tl.sum(tl.load(at, inside, 0), axis=0), c < C)
    tl.store(sums + C + c, tl.sum(tl.load(at + PARTS * C, inside, 0), axis=0), c < C)


@triton.jit
def gradient(features, places, grad, statistics, shift, sums, out, num_windows, inverse_count,
             POOL: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, TILE_C: tl.constexpr,
             TILE: tl.constexpr):  # fmt: skip
    """Write the gradient of the features: with `POOL`, that of all H x W pixels, most of which is zero.

    There, a row is a window of 2 x 2 pixels, of which those at the lower and right edge may lie outside.
    """
    c, row = tl.arange(0, TILE_C), tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = (row < num_windows)[:, None] & (c < C)[None, :]
    if POOL:
        ROWS: tl.constexpr = (H + 1) // 2
        COLUMNS: tl.constexpr = (W + 1) // 2
        y, x, pixel = window(row, H, W, ROWS, COLUMNS)
        image = row // (ROWS * COLUMNS)
        result = (image.to(tl.int64) * (H // 2) + y // 2) * (W // 2) + x // 2
        is_whole = inside & ((y + 1 < H) & (x + 1 < W))[:, None]
        offset = (result * C)[:, None] + c[None, :]
    else:
        is_whole = inside
        offset = (row.to(tl.int64) * C)[:, None] + c[None, :]
    dz, normalized = gradient_of_normalized(features, grad, statistics, shift, offset, is_whole, c, C)
    scale = tl.load(statistics + C + c, c < C, 0)
    mean_dz = tl.load(sums + c, c < C, 0) * inverse_count
    mean_product = tl.load(sums + C + c, c < C, 0) * inverse_count
    dx = (dz - mean_dz[None, :] - normalized * mean_product[None, :]) * scale[None, :]
    dx = dx.to(out.dtype.element_ty)
    if POOL:
        place = tl.load(places + offset, is_whole, 4)
        corner = out + (pixel * C)[:, None] + c[None, :]
        for number in tl.static_range(4):
            is_in = inside & ((y + number // 2 < H) & (x + number % 2 < W))[:, None]
            value = tl.where(place == number, dx, 0.0).to(out.dtype.element_ty)
            tl.store(corner + (number // 2 * W + number % 2) * C, value, is_in)
    else:
        tl.store(out + offset, dx, inside)


@triton.jit
def global_max(features, out, places, PIXELS: tl.constexpr, C: tl.constexpr, TILE_C: tl.constexpr):
    """Take the largest pixel of each channel of an image, and note which it was."""
    image, c = tl.program_id(0).to(tl.int64), tl.arange(0, TILE_C)
    pixels = features + image * PIXELS * C + c
    largest, place = tl.load(pixels, c < C, 0).to(tl.float32), tl.zeros((TILE_C,), tl.int32)
    for number in range(1, PIXELS):
        other = tl.load(pixels + number * C, c < C, 0).to(tl.float32)
        place = tl.where(other > largest, number, place)
        largest = tl.where(other > largest, other, largest)
    tl.store(out + image * C + c, largest.to(out.dtype.element_ty), c < C)
    tl.store(places + image * C + c, place, c < C)


@triton.jit
def global_max_gradient(grad, places, out, PIXELS: tl.constexpr, C: tl.constexpr, TILE_C: tl.constexpr):
    """Write the gradient of all pixels: zero where they were not the largest."""
    image, c = tl.program_id(0).to(tl.int64), tl.arange(0, TILE_C)
    value, place = tl.load(grad + image * C + c, c < C, 0), tl.load(places + image * C + c, c < C, 0)
    for number in range(PIXELS):
        here = tl.where(place == number, value, 0.0).to(out.dtype.element_ty)
        tl.store(out + (image * PIXELS + number) * C + c, here, c < C)


@triton.jit
def cross_entropy(logits, targets, losses, grad, num_rows, scale, smoothing, K: tl.constexpr, TILE_K: tl.constexpr,
                  TILE: tl.constexpr):  # fmt: skip
    """Write the loss of each row, and `scale` times its gradient."""
    row, k = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.arange(0, TILE_K)
    inside = (row < num_rows)[:, None] & (k < K)[None, :]
    offset = row[:, None] * K + k[None, :]
    x = tl.load(logits + offset, inside, -float("inf"))
    x = tl.where((row < num_rows)[:, None], x, 0)
    largest = tl.max(x, axis=1)
    powers = tl.exp(x - largest[:, None])
    total = tl.sum(powers, axis=1)
    is_target = k[None, :] == tl.load(targets + row, row < num_rows, 0)[:, None]
    wanted = tl.where(is_target, 1 - smoothing, 0.0) + smoothing / K
    loss = largest + tl.log(total) - tl.sum(tl.where(inside, wanted * x, 0), axis=1)
    tl.store(losses + row, loss, row < num_rows)
    tl.store(grad + offset, (powers / total[:, None] - wanted) * scale, inside)


@triton.jit
def momentum_step(grad, buffer, parameter, direction, parts, number, momentum, PARTS: tl.constexpr, TILE: tl.constexpr):
    """Update the momentum, write the Nesterov direction, and sum the squares of direction and parameter: (2, PARTS)."""
    part = tl.program_id(0)
    squares, weights = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    for start in range(part * TILE, number, PARTS * TILE):
        at = start + tl.arange(0, TILE)
        gradient = tl.load(grad + at, at < number, 0)
        moving = momentum * tl.load(buffer + at, at < number, 0) + gradient
        step = gradient + momentum * moving
        weight = tl.load(parameter + at, at < number, 0)
        tl.store(buffer + at, moving, at < number)
        tl.store(direction + at, step.to(direction.dtype.element_ty), at < number)
        squares += step * step
        weights += weight * weight
    tl.store(parts + part, tl.sum(squares, axis=0))
    tl.store(parts + PARTS + part, tl.sum(weights, axis=0))


@triton.jit
def divide_by_norm(directions, parts, number, PARTS: tl.constexpr, TILE: tl.constexpr):
    """Divide each of `directions`, (k, number), by its norm; `parts` are (k, 2, PARTS)."""
    at, which = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.program_id(1)
    norm = tl.sqrt(tl.sum(tl.load(parts + which * 2 * PARTS + tl.arange(0, PARTS)), axis=0)) + 1e-7
    places = directions + which * number + at
    value = tl.load(places, at < number, 0).to(tl.float32) / norm
    tl.store(places, value.to(directions.dtype.element_ty), at < number)


@triton.jit
def parameter_step(parameter, step, parts, rate, length, number, NORMALIZE: tl.constexpr, PARTS: tl.constexpr,
                   TILE: tl.constexpr):  # fmt: skip
    """Rescale `parameter` to norm `length` if `NORMALIZE`, and subtract `rate` times `step`."""
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    value = tl.load(parameter + at, at < number, 0)
    if NORMALIZE:
        value *= length / tl.sqrt(tl.sum(tl.load(parts + PARTS + tl.arange(0, PARTS)), axis=0))
    value -= tl.load(rate) * tl.load(step + at, at < number, 0).to(tl.float32)
    tl.store(parameter + at, value, at < number)
