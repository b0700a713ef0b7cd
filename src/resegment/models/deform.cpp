// Modulated deformable convolution of float32 images on a CPU, forward and backward: the definition
// stands in deform.py, which builds this file and calls the functions at its end.
//
// A tile, a part of one output row, is sampled into columns (places, taps x channels); a product
// with the weights makes outputs of them. Backward samples again instead of keeping columns. Images
// and their gradients lie channels last, so that one place's channels are neighbours; all other
// tensors come with the strides of a channel and of a place. No sum depends on the number of
// threads: forward has none between tiles, and backward gives every image to one thread.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <future>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;  // of the products' blocks: ROWS x 2 sums in registers
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 4;
#else
constexpr int LANES = 4, ROWS = 4;
#endif
constexpr int BLOCK = 16;         // widths of buffers are multiples of it, and so of LANES and ROWS
constexpr int PLACES = 128;       // of a tile, at most
constexpr int COLUMNS = 1 << 15;  // of a tile, about: 128 KB
constexpr int RELIABLE = 512;     // places that a float32 sum of gradients takes; then float64

template <int N> struct Lanes { typedef float type __attribute__((vector_size(4 * N))); };
template <int N> using Vector = typename Lanes<N>::type;

template <int N> inline Vector<N> load(const float* from) {
    Vector<N> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <int N> inline void store(float* to, Vector<N> v) { std::memcpy(to, &v, sizeof v); }

template <int N> inline Vector<4> fold(Vector<N> v) {
    if constexpr (N == 4) {
        return v;
    } else {
        Vector<N / 2> half[2];
        std::memcpy(half, &v, sizeof v);
        return fold<N / 2>(half[0] + half[1]);
    }
}

// As an integer; far outside any image where it is too large for one or not a number
inline int whole(float x) {
    const float far = 1 << 24;
    return int(x > -far ? (x < far ? x : far) : -far);
}

inline int padded(int n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

struct Matrix {  // element (i, j) is at[i * row + j * column]
    const float* at;
    int64_t row, column;
};

// `width` = V LANES columns of c = a b, or c += a b
template <int V>
void panel(int rows, int depth, Matrix a, const float* b, int64_t b_row, float* c, int64_t c_row,
           bool add) {
    for (int i = 0; i < rows; i += ROWS) {
        Vector<LANES> sum[ROWS][V];
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < V; ++v)
                sum[r][v] = add ? load<LANES>(c + (i + r) * c_row + v * LANES) : Vector<LANES>{};
        const float* left = a.at + i * a.row;
        for (int d = 0; d < depth; ++d) {
            Vector<LANES> right[V];
            for (int v = 0; v < V; ++v) right[v] = load<LANES>(b + d * b_row + v * LANES);
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < V; ++v)
                    sum[r][v] += left[r * a.row + d * a.column] * right[v];
        }
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < V; ++v)
                store<LANES>(c + (i + r) * c_row + v * LANES, sum[r][v]);
    }
}

// c (rows, width) = a (rows, depth) b (depth, width), or += ; rows in whole ROWS, width in BLOCKs
void product(int rows, int depth, int width, Matrix a, const float* b, int64_t b_row, float* c,
             int64_t c_row, bool add = false) {
    int j = 0;
    for (; j + 2 * LANES <= width; j += 2 * LANES)
        panel<2>(rows, depth, a, b + j, b_row, c + j, c_row, add);
    for (; j < width; j += LANES) panel<1>(rows, depth, a, b + j, b_row, c + j, c_row, add);
}

}  // namespace

extern "C" {

struct Shape {  // as deform.py passes it
    int64_t batch, channels, height, width;           // of the images; channels in whole fours
    int64_t outputs, out_height, out_width;           // of the result
    int64_t kernel_rows, kernel_columns, padding;
    int64_t offset_channel, offset_place;             // strides, also of the gradients
    int64_t mask_channel, mask_place;
    int64_t result_channel, result_place;
    int64_t threads;
};
}

namespace {

struct Tensors {
    const float *image, *offset, *mask, *weight, *result_gradient;
    float *result, *image_gradient, *offset_gradient, *mask_gradient;
};

// The four pixels around every place of a tile, for one tap: where they are, and their weights, which
// are products of one for the row (0: upper, 1: lower), one for the column and the mask. `in` is 1
// for rows and columns inside the image and 0 for others, whose weight is 0; `at` is always inside.
struct Corners {
    int32_t at[4][PLACES];
    float weight[4][PLACES], row[2][PLACES], column[2][PLACES];
    float row_in[2][PLACES], column_in[2][PLACES];
};

struct Tile {
    int image, row, left, places;
};

struct Work {
    const Shape s;
    const Tensors t;
    const int taps, depth, width, outputs, places;  // depth: taps x channels; the next two padded
    std::vector<float> columns, moves, masks, results, gradients, sums;
    Corners corners;

    Work(const Shape& s, const Tensors& t, bool backward)
        : s(s), t(t), taps(s.kernel_rows * s.kernel_columns), depth(taps * s.channels),
          width(padded(depth)), outputs(padded(s.outputs)),
          places(std::clamp(COLUMNS / width / BLOCK * BLOCK, BLOCK, PLACES)),
          columns(places * width), moves(2 * taps * places), masks(taps * places),
          results(places * outputs), gradients(backward ? places * width : 0),
          sums(backward ? outputs * width : 0) {}

    template <typename Do> void tiles(int image, int row, Do work) {
        for (int left = 0; left < s.out_width; left += places)
            work(Tile{image, row, left, int(std::min<int64_t>(places, s.out_width - left))});
    }

    int64_t first(const Tile& tile, int channels, int64_t place) const {
        return tile.image * channels * s.out_height * s.out_width +
               (tile.row * s.out_width + tile.left) * place;
    }

    // Tensor to buffer (channels, places)
    void fetch(const float* from, const Tile& tile, int channels, int64_t channel, int64_t place,
               float* to) const {
        from += first(tile, channels, place);
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < tile.places; ++p) to[c * places + p] = from[c * channel + p * place];
    }

    void put(float* to, const Tile& tile, int channels, int64_t channel, int64_t place,
             const float* from) const {
        to += first(tile, channels, place);
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < tile.places; ++p) to[c * channel + p * place] = from[c * places + p];
    }

    void fetch_taps(const Tile& tile) {
        fetch(t.offset, tile, 2 * taps, s.offset_channel, s.offset_place, moves.data());
        fetch(t.mask, tile, taps, s.mask_channel, s.mask_place, masks.data());
    }

    // A tap's whole pixels are split from the rest before its place is added: exact in float32.
    void surround(const Tile& tile, int k) {
        const float *__restrict dy = &moves[2 * k * places], *__restrict dx = dy + places;
        const float* __restrict mask = &masks[k * places];
        Corners& __restrict c = corners;
        const int top = tile.row - s.padding + k / s.kernel_columns;
        const int left = tile.left - s.padding + k % s.kernel_columns;
        const int height = s.height, width = s.width;
        for (int p = 0; p < tile.places; ++p) {
            const float up = std::floor(dy[p]), leftwards = std::floor(dx[p]);
            const int y = top + whole(up), x = left + p + whole(leftwards);
            const float v = dy[p] - up, u = dx[p] - leftwards;
            const bool y0 = unsigned(y) < unsigned(height), y1 = unsigned(y + 1) < unsigned(height);
            const bool x0 = unsigned(x) < unsigned(width), x1 = unsigned(x + 1) < unsigned(width);
            c.row_in[0][p] = y0 ? 1 : 0, c.row_in[1][p] = y1 ? 1 : 0;
            c.column_in[0][p] = x0 ? 1 : 0, c.column_in[1][p] = x1 ? 1 : 0;
            const float a0 = y0 ? 1 - v : 0, a1 = y1 ? v : 0, b0 = x0 ? 1 - u : 0, b1 = x1 ? u : 0;
            c.row[0][p] = a0, c.row[1][p] = a1, c.column[0][p] = b0, c.column[1][p] = b1;
            const int first = (y0 ? y : 0) * width, second = (y1 ? y + 1 : 0) * width;
            const int before = x0 ? x : 0, after = x1 ? x + 1 : 0;
            c.at[0][p] = first + before, c.at[1][p] = first + after;
            c.at[2][p] = second + before, c.at[3][p] = second + after;
            c.weight[0][p] = mask[p] * (a0 * b0), c.weight[1][p] = mask[p] * (a0 * b1);
            c.weight[2][p] = mask[p] * (a1 * b0), c.weight[3][p] = mask[p] * (a1 * b1);
        }
    }

    template <int N> void sample(const Tile& tile) {
        const float* image = t.image + tile.image * s.height * s.width * s.channels;
        const int channels = s.channels;
        for (int k = 0; k < taps; ++k) {
            surround(tile, k);
            for (int p = 0; p < tile.places; ++p) {
                const float* from[4];
                float by[4];
                for (int i = 0; i < 4; ++i) {
                    from[i] = image + int64_t(corners.at[i][p]) * channels;
                    by[i] = corners.weight[i][p];
                }
                float* to = &columns[p * width + k * channels];
                for (int c = 0; c < channels; c += N)
                    store<N>(to + c, by[0] * load<N>(from[0] + c) + by[1] * load<N>(from[1] + c) +
                                         by[2] * load<N>(from[2] + c) +
                                         by[3] * load<N>(from[3] + c));
            }
        }
    }

    template <int N> void forward(int image, int row) {
        tiles(image, row, [&](const Tile& tile) {
            fetch_taps(tile);
            sample<N>(tile);
            product(padded(tile.places), depth, outputs, {columns.data(), width, 1}, t.weight,
                    outputs, results.data(), outputs);
            float* to = t.result + first(tile, s.outputs, s.result_place);
            for (int p = 0; p < tile.places; ++p)
                for (int o = 0; o < s.outputs; ++o)
                    to[o * s.result_channel + p * s.result_place] = results[p * outputs + o];
        });
    }

    // From the gradients of the columns: the columns themselves, and the gradients of the image, of
    // offsets and of masks.
    template <int N> void spread(const Tile& tile) {
        const int64_t start = tile.image * s.height * s.width * s.channels;
        const float* image = t.image + start;
        float* gradient = t.image_gradient + start;
        const int channels = s.channels;
        float dots[4][PLACES];
        for (int k = 0; k < taps; ++k) {
            surround(tile, k);
            float* __restrict mask = &masks[k * places];
            for (int p = 0; p < tile.places; ++p) {
                const float* from[4];
                float *to[4], by[4];
                for (int i = 0; i < 4; ++i) {
                    const int64_t at = int64_t(corners.at[i][p]) * channels;
                    from[i] = image + at, to[i] = gradient + at;
                    by[i] = corners.weight[i][p];
                }
                float* column = &columns[p * width + k * channels];
                const float* above = &gradients[p * width + k * channels];
                Vector<N> dot[4] = {};
                for (int c = 0; c < channels; c += N) {
                    const Vector<N> g = load<N>(above + c);
                    Vector<N> sum{};
                    for (int i = 0; i < 4; ++i) {
                        const Vector<N> pixel = load<N>(from[i] + c);
                        dot[i] += g * pixel;
                        sum += by[i] * pixel;
                        store<N>(to[i] + c, load<N>(to[i] + c) + by[i] * g);
                    }
                    store<N>(column + c, sum);
                }
                for (int i = 0; i < 4; ++i) {
                    const Vector<4> d = fold<N>(dot[i]);
                    dots[i][p] = (d[0] + d[1]) + (d[2] + d[3]);
                }
            }
            float *__restrict dy = &moves[2 * k * places], *__restrict dx = dy + places;
            const Corners& c = corners;
            for (int p = 0; p < tile.places; ++p) {
                float of_row[2], of_column[2];  // what a row, a column of weights is multiplied by
                for (int i = 0; i < 2; ++i) {
                    of_row[i] = c.column[0][p] * dots[2 * i][p] + c.column[1][p] * dots[2 * i + 1][p];
                    of_column[i] = c.row[0][p] * dots[i][p] + c.row[1][p] * dots[2 + i][p];
                }
                dy[p] = mask[p] * (c.row_in[1][p] * of_row[1] - c.row_in[0][p] * of_row[0]);
                dx[p] = mask[p] *
                        (c.column_in[1][p] * of_column[1] - c.column_in[0][p] * of_column[0]);
                mask[p] = c.row[0][p] * of_row[0] + c.row[1][p] * of_row[1];
            }
        }
    }

    // Adds the gradient of the weights, (outputs, taps, channels), to `total`.
    template <int N> void backward(int image, const float* weight, double* total) {
        int summed = 0;
        for (int row = 0; row < s.out_height; ++row) {
            tiles(image, row, [&](const Tile& tile) {
                fetch_taps(tile);
                const float* from = t.result_gradient + first(tile, s.outputs, s.result_place);
                for (int p = 0; p < tile.places; ++p)
                    for (int o = 0; o < s.outputs; ++o)
                        results[p * outputs + o] = from[o * s.result_channel + p * s.result_place];
                product(padded(tile.places), s.outputs, width, {results.data(), outputs, 1}, weight,
                        width, gradients.data(), width);
                spread<N>(tile);
                product(outputs, tile.places, width, {results.data(), 1, outputs}, columns.data(),
                        width, sums.data(), width, summed > 0);
                summed += tile.places;
                put(t.offset_gradient, tile, 2 * taps, s.offset_channel, s.offset_place,
                    moves.data());
                put(t.mask_gradient, tile, taps, s.mask_channel, s.mask_place, masks.data());
            });
            if (summed >= RELIABLE || row + 1 == s.out_height) {
                for (int o = 0; o < s.outputs; ++o)
                    for (int d = 0; d < depth; ++d) total[o * depth + d] += sums[o * width + d];
                summed = 0;
            }
        }
    }
};

// work(thread) for every thread, the first of them here
template <typename Do> void together(int threads, Do work) {
    std::vector<std::future<void>> others;
    for (int i = 1; i < threads; ++i) others.push_back(std::async(std::launch::async, work, i));
    work(0);
    for (auto& other : others) other.get();
}

template <int N> void forward(const Shape& s, const Tensors& t) {
    const int64_t rows = s.batch * s.out_height, threads = std::min(s.threads, rows);
    together(threads, [&](int thread) {
        Work work(s, t, false);
        for (int64_t r = rows * thread / threads; r < rows * (thread + 1) / threads; ++r)
            work.forward<N>(r / s.out_height, r % s.out_height);
    });
}

template <int N> void backward(const Shape& s, const Tensors& t, float* weight_gradient) {
    const int64_t size = s.outputs * s.kernel_rows * s.kernel_columns * s.channels;
    const int64_t threads = std::min(s.threads, s.batch);
    std::vector<double> totals(s.batch * size);
    together(threads, [&](int thread) {
        Work work(s, t, true);
        for (int64_t image = thread; image < s.batch; image += threads)
            work.backward<N>(image, t.weight, &totals[image * size]);
    });
    for (int64_t i = 0; i < size; ++i) {
        double sum = 0;
        for (int64_t image = 0; image < s.batch; ++image) sum += totals[image * size + i];
        weight_gradient[i] = sum;
    }
}

// work<N>() for the widest vectors that share out the channels; 0, or 1 where memory is exhausted
#define WITH_LANES(work)                                                          \
    try {                                                                         \
        if (s->channels % LANES == 0) work<LANES>;                                \
        else if (LANES > 8 && s->channels % 8 == 0) work<8>;                      \
        else work<4>;                                                             \
        return 0;                                                                 \
    } catch (...) {                                                               \
        return 1;                                                                 \
    }

}  // namespace

extern "C" {

// weight: (taps x channels, outputs padded to whole BLOCKs)
int deform_forward(const Shape* s, const float* image, const float* offset, const float* mask,
                   const float* weight, float* result) {
    Tensors t{};
    t.image = image, t.offset = offset, t.mask = mask, t.weight = weight, t.result = result;
    try {
        if (s->channels % LANES == 0) forward<LANES>(*s, t);
        else if (s->channels % 8 == 0) forward<8>(*s, t);
        else forward<4>(*s, t);
    } catch (...) {
        return 1;
    }
    return 0;
}

// weight: (outputs, taps x channels padded to whole BLOCKs); image_gradient: zeros;
// weight_gradient: (outputs, taps x channels)
int deform_backward(const Shape* s, const float* image, const float* offset, const float* mask,
                    const float* weight, const float* result_gradient, float* image_gradient,
                    float* offset_gradient, float* mask_gradient, float* weight_gradient) {
    Tensors t{image, offset, mask, weight, result_gradient,
              nullptr, image_gradient, offset_gradient, mask_gradient};
    try {
        if (s->channels % LANES == 0) backward<LANES>(*s, t, weight_gradient);
        else if (s->channels % 8 == 0) backward<8>(*s, t, weight_gradient);
        else backward<4>(*s, t, weight_gradient);
    } catch (...) {
        return 1;
    }
    return 0;
}
}
