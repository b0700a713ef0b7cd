// Modulated deformable convolution of float32 images on a CPU, forward and backward: the definition
// stands in deform.py, which builds this file and calls the two functions at its end.
//
// A tile, a part of one output row, is sampled into columns (places, taps x channels); a product
// with the weights makes the result of them. Backward samples again instead of keeping columns.
// Images and their gradients lie channels last, so that the channels of a pixel are neighbours; the
// other tensors come with their strides. No sum depends on the number of threads: forward has none
// across tiles, and backward gives every image to one thread.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <future>
#include <type_traits>
#include <vector>

struct Strides {
    int64_t channel, place;
};

struct Shape {  // deform.py passes these numbers in this order
    int64_t batch, channels, height, width;  // of the images; channels in whole fours
    int64_t outputs, out_height, out_width, rows, columns, padding;
    Strides offset, mask, result;  // of their gradients as well
    int64_t threads;
};

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;  // ROWS x 2 vectors of sums fit the registers
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 4;
#else
constexpr int LANES = 4, ROWS = 4;
#endif
constexpr int HALF = LANES > 8 ? 8 : 4;
constexpr int BLOCK = 16;         // widths of matrices are multiples of it, so of LANES and ROWS
constexpr int PLACES = 128;       // of a tile, at most
constexpr int COLUMNS = 1 << 15;  // values in the columns of a tile, about
constexpr int RELIABLE = 512;     // places whose gradients are summed in float32; then in float64

template <int N> struct Lanes { typedef float type __attribute__((vector_size(4 * N))); };
template <int N> using Vector = typename Lanes<N>::type;

template <int N> inline Vector<N> load(const float* from) {
    Vector<N> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <int N> inline void store(float* to, Vector<N> v) { std::memcpy(to, &v, sizeof v); }

template <int N> inline float total(Vector<N> v) {
    if constexpr (N == 4) {
        return (v[0] + v[1]) + (v[2] + v[3]);
    } else {
        Vector<N / 2> half[2];
        std::memcpy(half, &v, sizeof v);
        return total<N / 2>(half[0] + half[1]);
    }
}

inline int padded(int n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

// As an integer; far outside of any image where it is too large for one, or not a number
inline int whole(float x) {
    const float far = 1 << 24;
    return int(x > -far ? (x < far ? x : far) : -far);
}

void copy(const float* from, Strides f, float* to, Strides t, int channels, int places) {
    for (int c = 0; c < channels; ++c)
        for (int p = 0; p < places; ++p)
            to[c * t.channel + p * t.place] = from[c * f.channel + p * f.place];
}

struct Matrix {  // element (i, j) is at[i * row + j * column]
    const float* at;
    int64_t row, column;
};

template <int V>  // of V vectors' width
void panel(int rows, int depth, Matrix a, const float* b, float* c, int64_t width, bool add) {
    for (int i = 0; i < rows; i += ROWS) {
        const float* left = a.at + i * a.row;
        float* to = c + i * width;
        Vector<LANES> sum[ROWS][V];
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < V; ++v)
                sum[r][v] = add ? load<LANES>(to + r * width + v * LANES) : Vector<LANES>{};
        for (int d = 0; d < depth; ++d) {
            Vector<LANES> right[V];
            for (int v = 0; v < V; ++v) right[v] = load<LANES>(b + d * width + v * LANES);
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < V; ++v) sum[r][v] += left[r * a.row + d * a.column] * right[v];
        }
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < V; ++v) store<LANES>(to + r * width + v * LANES, sum[r][v]);
    }
}

// c (rows, width) = a (rows, depth) b (depth, width), or +=; rows in whole ROWS, width in BLOCKs
void product(int rows, int depth, int width, Matrix a, const float* b, float* c, bool add = false) {
    int j = 0;
    for (; j + 2 * LANES <= width; j += 2 * LANES)
        panel<2>(rows, depth, a, b + j, c + j, width, add);
    for (; j < width; j += LANES) panel<1>(rows, depth, a, b + j, c + j, width, add);
}

struct Tensors {
    const float *image, *offset, *mask, *weight;
    float* result;
    const float* of_result;  // gradients
    float *of_image, *of_offset, *of_mask;
};

struct Tile {
    int image, row, left, places;
};

// The four pixels around every place of a tile, for one tap: where they are, and their weights,
// products of one for the row (0: upper, 1: lower), one for the column and the mask. Rows and
// columns outside the image have weight 0 and `in` 0, not 1; `at` is always inside.
struct Corners {
    int32_t at[4][PLACES];
    float weight[4][PLACES], row[2][PLACES], column[2][PLACES];
    float row_in[2][PLACES], column_in[2][PLACES];
};

// What one thread works with
struct Work {
    const Shape s;
    const Tensors t;
    const int taps, depth, width, outputs, places;  // depth: taps x channels; width: it, padded
    std::vector<float> columns, of_columns, results, moves, masks, sums;
    Corners corners;

    Work(const Shape& s, const Tensors& t)
        : s(s), t(t), taps(s.rows * s.columns), depth(taps * s.channels), width(padded(depth)),
          outputs(padded(s.outputs)),
          places(std::clamp(COLUMNS / width / BLOCK * BLOCK, BLOCK, PLACES)),
          columns(places * width), of_columns(t.of_result ? places * width : 0),
          results(places * outputs), moves(2 * taps * places), masks(taps * places),
          sums(t.of_result ? outputs * width : 0) {}

    template <typename Do> void tiles(int image, int row, Do work) {
        for (int left = 0; left < s.out_width; left += places)
            work(Tile{image, row, left, int(std::min<int64_t>(places, s.out_width - left))});
    }

    int64_t first(const Tile& tile, int channels, Strides of) const {
        return tile.image * channels * s.out_height * s.out_width +
               (tile.row * s.out_width + tile.left) * of.place;
    }

    // Between a tensor and a buffer (channels, places)
    void fetch(const float* from, Strides of, const Tile& tile, int channels, float* to) const {
        copy(from + first(tile, channels, of), of, to, {places, 1}, channels, tile.places);
    }
    void put(const float* from, const Tile& tile, int channels, float* to, Strides of) const {
        copy(from, {places, 1}, to + first(tile, channels, of), of, channels, tile.places);
    }

    void fetch_taps(const Tile& tile) {
        fetch(t.offset, s.offset, tile, 2 * taps, moves.data());
        fetch(t.mask, s.mask, tile, taps, masks.data());
    }

    // An offset's whole pixels are split from the rest before the place is added: exact in float32.
    void surround(const Tile& tile, int tap) {
        const float *__restrict dy = &moves[2 * tap * places], *__restrict dx = dy + places;
        const float* __restrict mask = &masks[tap * places];
        Corners& __restrict c = corners;
        const int top = tile.row - s.padding + tap / s.columns;
        const int left = tile.left - s.padding + tap % s.columns;
        const int height = s.height, width = s.width;
        for (int p = 0; p < tile.places; ++p) {
            const float down = std::floor(dy[p]), along = std::floor(dx[p]);
            const int y = top + whole(down), x = left + p + whole(along);
            const float v = dy[p] - down, u = dx[p] - along;
            const bool y0 = unsigned(y) < unsigned(height), y1 = unsigned(y + 1) < unsigned(height);
            const bool x0 = unsigned(x) < unsigned(width), x1 = unsigned(x + 1) < unsigned(width);
            c.row_in[0][p] = y0 ? 1 : 0, c.row_in[1][p] = y1 ? 1 : 0;
            c.column_in[0][p] = x0 ? 1 : 0, c.column_in[1][p] = x1 ? 1 : 0;
            const float no_row = 0 * v, no_column = 0 * u;  // what is not a number stays none
            const float a0 = y0 ? 1 - v : no_row, a1 = y1 ? v : no_row;
            const float b0 = x0 ? 1 - u : no_column, b1 = x1 ? u : no_column;
            c.row[0][p] = a0, c.row[1][p] = a1, c.column[0][p] = b0, c.column[1][p] = b1;
            const int upper = (y0 ? y : 0) * width, lower = (y1 ? y + 1 : 0) * width;
            const int before = x0 ? x : 0, after = x1 ? x + 1 : 0;
            c.at[0][p] = upper + before, c.at[1][p] = upper + after;
            c.at[2][p] = lower + before, c.at[3][p] = lower + after;
            c.weight[0][p] = mask[p] * (a0 * b0), c.weight[1][p] = mask[p] * (a0 * b1);
            c.weight[2][p] = mask[p] * (a1 * b0), c.weight[3][p] = mask[p] * (a1 * b1);
        }
    }

    // Fills the columns
    template <int N> void sample(const Tile& tile) {
        const float* image = t.image + tile.image * s.height * s.width * s.channels;
        const int channels = s.channels;
        for (int tap = 0; tap < taps; ++tap) {
            surround(tile, tap);
            for (int p = 0; p < tile.places; ++p) {
                const float* from[4];
                float weight[4];
                for (int i = 0; i < 4; ++i) {
                    from[i] = image + int64_t(corners.at[i][p]) * channels;
                    weight[i] = corners.weight[i][p];
                }
                float* column = &columns[p * width + tap * channels];
                for (int c = 0; c < channels; c += N) {
                    Vector<N> sum{};
                    for (int i = 0; i < 4; ++i) sum += weight[i] * load<N>(from[i] + c);
                    store<N>(column + c, sum);
                }
            }
        }
    }

    // Fills the columns; from their gradients adds to the image's, and replaces moves and masks by
    // their own
    template <int N> void sample_back(const Tile& tile) {
        const int64_t start = tile.image * s.height * s.width * s.channels;
        const float* image = t.image + start;
        float* of_image = t.of_image + start;
        const int channels = s.channels;
        float dots[4][PLACES];  // of a pixel and the gradient of the column
        for (int tap = 0; tap < taps; ++tap) {
            surround(tile, tap);
            for (int p = 0; p < tile.places; ++p) {
                const float* from[4];
                float *to[4], weight[4];
                for (int i = 0; i < 4; ++i) {
                    const int64_t at = int64_t(corners.at[i][p]) * channels;
                    from[i] = image + at, to[i] = of_image + at;
                    weight[i] = corners.weight[i][p];
                }
                float* column = &columns[p * width + tap * channels];
                const float* of_column = &of_columns[p * width + tap * channels];
                Vector<N> dot[4] = {};
                for (int c = 0; c < channels; c += N) {
                    const Vector<N> gradient = load<N>(of_column + c);
                    Vector<N> sum{};
                    for (int i = 0; i < 4; ++i) {  // corners may be one pixel: one after the other
                        const Vector<N> pixel = load<N>(from[i] + c);
                        dot[i] += gradient * pixel;
                        sum += weight[i] * pixel;
                        store<N>(to[i] + c, load<N>(to[i] + c) + weight[i] * gradient);
                    }
                    store<N>(column + c, sum);
                }
                for (int i = 0; i < 4; ++i) dots[i][p] = total<N>(dot[i]);
            }
            const Corners& c = corners;
            float *__restrict dy = &moves[2 * tap * places], *__restrict dx = dy + places;
            float* __restrict mask = &masks[tap * places];
            for (int p = 0; p < tile.places; ++p) {
                float row[2], column[2];  // what the weight of a row, of a column is multiplied by
                for (int i = 0; i < 2; ++i) {
                    row[i] = c.column[0][p] * dots[2 * i][p] + c.column[1][p] * dots[2 * i + 1][p];
                    column[i] = c.row[0][p] * dots[i][p] + c.row[1][p] * dots[2 + i][p];
                }
                dy[p] = mask[p] * (c.row_in[1][p] * row[1] - c.row_in[0][p] * row[0]);
                dx[p] = mask[p] * (c.column_in[1][p] * column[1] - c.column_in[0][p] * column[0]);
                mask[p] = c.row[0][p] * row[0] + c.row[1][p] * row[1];
            }
        }
    }

    template <int N> void forward(int image, int row) {
        tiles(image, row, [&](const Tile& tile) {
            fetch_taps(tile);
            sample<N>(tile);
            product(padded(tile.places), depth, outputs, {columns.data(), width, 1}, t.weight,
                    results.data());
            copy(results.data(), {1, outputs}, t.result + first(tile, s.outputs, s.result),
                 s.result, s.outputs, tile.places);
        });
    }

    // Adds the gradient of the weights to `of_weight`
    template <int N> void backward(int image, double* of_weight) {
        int summed = 0;
        for (int row = 0; row < s.out_height; ++row) {
            tiles(image, row, [&](const Tile& tile) {
                fetch_taps(tile);
                fetch(t.of_result, s.result, tile, s.outputs, results.data());
                product(padded(tile.places), s.outputs, width, {results.data(), 1, places},
                        t.weight, of_columns.data());
                sample_back<N>(tile);
                product(outputs, tile.places, width, {results.data(), places, 1}, columns.data(),
                        sums.data(), summed > 0);
                summed += tile.places;
                put(moves.data(), tile, 2 * taps, t.of_offset, s.offset);
                put(masks.data(), tile, taps, t.of_mask, s.mask);
            });
            if (summed >= RELIABLE || row + 1 == s.out_height) {
                for (int o = 0; o < s.outputs; ++o)
                    for (int d = 0; d < depth; ++d) of_weight[o * depth + d] += sums[o * width + d];
                summed = 0;
            }
        }
    }
};

// work(thread) for every thread, the first of them being this one
template <typename Do> void together(int threads, Do work) {
    std::vector<std::future<void>> others;
    for (int i = 1; i < threads; ++i) others.push_back(std::async(std::launch::async, work, i));
    work(0);
    for (auto& other : others) other.get();
}

template <int N> void forward(const Shape& s, const Tensors& t) {
    const int64_t rows = s.batch * s.out_height;
    const int64_t threads = std::clamp<int64_t>(rows, 1, s.threads);
    together(threads, [&](int thread) {
        Work work(s, t);
        for (int64_t r = rows * thread / threads; r < rows * (thread + 1) / threads; ++r)
            work.forward<N>(r / s.out_height, r % s.out_height);
    });
}

template <int N> void backward(const Shape& s, const Tensors& t, float* of_weight) {
    const int64_t size = s.outputs * s.rows * s.columns * s.channels;
    const int64_t threads = std::clamp<int64_t>(s.batch, 1, s.threads);
    std::vector<double> parts(s.batch * size);  // one an image
    together(threads, [&](int thread) {
        Work work(s, t);
        for (int64_t image = thread; image < s.batch; image += threads)
            work.backward<N>(image, &parts[image * size]);
    });
    for (int64_t i = 0; i < size; ++i) {
        double sum = 0;
        for (int64_t image = 0; image < s.batch; ++image) sum += parts[image * size + i];
        of_weight[i] = sum;
    }
}

// work(N) with the widest vectors that share out the channels. 1: no memory, or no more threads
template <typename Do> int in_vectors(int64_t channels, Do work) {
    try {
        if (channels % LANES == 0)
            work(std::integral_constant<int, LANES>{});
        else if (channels % HALF == 0)
            work(std::integral_constant<int, HALF>{});
        else
            work(std::integral_constant<int, 4>{});
    } catch (...) {
        return 1;
    }
    return 0;
}

}  // namespace

extern "C" {

// weight: (taps x channels, outputs padded to whole BLOCKs)
int deform_forward(const Shape* s, const float* image, const float* offset, const float* mask,
                   const float* weight, float* result) {
    const Tensors t{image, offset, mask, weight, result, nullptr, nullptr, nullptr, nullptr};
    return in_vectors(s->channels, [&](auto n) { forward<decltype(n)::value>(*s, t); });
}

// weight: (outputs, taps x channels padded to whole BLOCKs); of_image: zeros, to be added to;
// of_weight: (outputs, taps x channels)
int deform_backward(const Shape* s, const float* image, const float* offset, const float* mask,
                    const float* weight, const float* of_result, float* of_image, float* of_offset,
                    float* of_mask, float* of_weight) {
    const Tensors t{image, offset, mask, weight, nullptr, of_result, of_image, of_offset, of_mask};
    return in_vectors(s->channels, [&](auto n) { backward<decltype(n)::value>(*s, t, of_weight); });
}
}
