// A training step of the paper's CNN: gradients, and update of the weights.
//
// Each block of `add_gradients` takes SIGNALS signals through the network and back; activations
// stay in shared memory, and only the sums of the gradients are written. `update_weights` adds the
// sums of all blocks in a fixed order and takes the optimiser's step. The second axis of a grid
// counts the networks, which share the signals only. All products are in single precision.
//
// corrsk/neural/gpu/fused.py defines, for each network: GRID_ROWS, GRID_COLUMNS, CHANNELS
// (layout of the measurements), FEATURES (number of measurements, at most their product), CLASSES,
// SIGNALS (multiple of 4), THREADS, OPTIMIZER (1: AdamW, 2: SGD), WEIGHTED (whether signals have
// weights), WHOLE_FC1 (whether the first linear layer is in shared memory),
// and the positions AT_.. of the weights in a buffer of N_PACKED values.

__device__ constexpr int larger(int a, int b) { return a > b ? a : b; }
__device__ constexpr int power_of_two(int n) { return n < 2 ? 1 : 2 * power_of_two(n / 2); }
__device__ constexpr int smaller(int a, int b) { return a < b ? a : b; }

constexpr int HEIGHT = larger(GRID_ROWS, 6), WIDTH = larger(GRID_COLUMNS, 6);
constexpr int ROWS1 = HEIGHT - 2, COLUMNS1 = WIDTH - 2, POSITIONS1 = ROWS1 * COLUMNS1;
constexpr int COLUMNS2 = (WIDTH - 4) / 2, POOLED = (HEIGHT - 4) / 2 * COLUMNS2;
constexpr int CONV1 = 6, CONV2 = 16, NODES = 32, TAPS = 9;
constexpr int FLAT = CONV2 * POOLED;
// rows of weights: an odd number of 16 bytes, so that reads of neighbouring rows do not collide
constexpr int ROW1 = 8, ROW2 = CONV2, CHANNEL2 = TAPS * CONV2 + 4, ROW = NODES + 4;
constexpr int CLASS_ROW = (CLASSES + 3) / 4 * 4;
constexpr int PLANE = POSITIONS1 | 1, HIDDEN = CONV1 * PLANE;  // odd, for the same reason
constexpr int N_SHARED_WEIGHTS = WHOLE_FC1 ? N_PACKED : AT_FC1;
constexpr int SIGNAL = CHANNELS * HEIGHT * WIDTH;
// lanes that share the signals of a gradient of the convolutions
constexpr int LANES2 = smaller(32, power_of_two(THREADS / 24));
constexpr int LANES1 = smaller(32, power_of_two(THREADS / CONV1));

// shared memory, in floats; all parts begin at multiples of 16 bytes
__device__ constexpr int aligned(int n) { return (n + 3) / 4 * 4; }
constexpr int IMAGE = aligned(N_SHARED_WEIGHTS);
constexpr int HIDDEN1 = IMAGE + aligned(SIGNALS * SIGNAL);
constexpr int BACK1 = HIDDEN1 + aligned(SIGNALS * HIDDEN);
constexpr int POOL = BACK1 + aligned(SIGNALS * HIDDEN);
constexpr int PLACE = POOL + SIGNALS * FLAT;
constexpr int NODES1 = PLACE + SIGNALS * FLAT / 4;
constexpr int NODES2 = NODES1 + SIGNALS * NODES;
constexpr int BACK_NODES1 = NODES2 + SIGNALS * NODES;
constexpr int BACK_NODES2 = BACK_NODES1 + SIGNALS * NODES;
constexpr int LOGITS = BACK_NODES2 + SIGNALS * NODES;
constexpr int SIGNAL_WEIGHTS = LOGITS + SIGNALS * CLASS_ROW;
constexpr int SIGNAL_ROWS = SIGNAL_WEIGHTS + SIGNALS;
constexpr int LABELS = SIGNAL_ROWS + 2 * SIGNALS;
static_assert(SHARED_BYTES == 4 * (LABELS + SIGNALS), "see CNNLayout.shared_bytes");

struct Random {
    unsigned value[4];
};

// Philox4x32-10 (Salmon et al., SC 2011): four numbers for each counter
__device__ inline Random philox(unsigned long long key, unsigned a, unsigned b,
                                unsigned long long step) {
    unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
    unsigned c0 = a, c1 = b, c2 = (unsigned)step, c3 = (unsigned)(step >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

struct Dropout {
    unsigned long long seed, step;
    unsigned threshold;  // smaller numbers are dropped
    float factor;        // of the others

    __device__ Random draw(unsigned a, unsigned b) const {
        if (threshold == 0) return {{0, 0, 0, 0}};
        return philox(seed, a, b, step);
    }
    __device__ float apply(float x, unsigned drawn) const {
        // after a ReLU; a NaN is kept, so that it reaches the loss
        return x <= 0 || drawn < threshold ? 0.0f : x * factor;
    }
};

__device__ inline float sum_of_lanes(float value, int lanes) {
    for (int distance = lanes / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// sum + a . b, by four fused operations
__device__ inline void add_product(float& sum, const float4& a, const float4& b) {
    sum += a.x * b.x;
    sum += a.y * b.y;
    sum += a.z * b.z;
    sum += a.w * b.w;
}

__device__ inline void add_to(float* sum, float value, bool is_first) {
    *sum = is_first ? value : *sum + value;
}

// outputs (SIGNALS, NODES) of a linear layer, ReLU and dropout; weights (n_in, ROW)
template <int N_IN>
__device__ inline void linear_forward(const float* in, const float* weights, const float* bias,
                                      float* out, const Dropout& dropout, unsigned first_group,
                                      unsigned layer) {
    for (int item = threadIdx.x; item < SIGNALS / 4 * NODES; item += THREADS) {
        const int node = item % NODES, group = item / NODES;
        float sum[4];
        for (int s = 0; s < 4; ++s) sum[s] = bias[node];
#pragma unroll 4
        for (int i = 0; i < N_IN; i += 4) {
            const float* w = weights + i * ROW + node;
            const float4 column = {w[0], w[ROW], w[2 * ROW], w[3 * ROW]};
#pragma unroll
            for (int s = 0; s < 4; ++s)
                add_product(sum[s], *(const float4*)(in + (4 * group + s) * N_IN + i), column);
        }
        const Random drawn = dropout.draw(first_group + group, layer + node);
#pragma unroll
        for (int s = 0; s < 4; ++s)
            out[(4 * group + s) * NODES + node] = dropout.apply(sum[s], drawn.value[s]);
    }
}

// gradient (n_in, ROW) of the weights of a linear layer, and of its bias
template <int N_IN>
__device__ inline void linear_gradient(const float* in, const float* back, float* gradient,
                                       float* bias, bool is_first) {
    for (int item = threadIdx.x; item < N_IN / 8 * NODES; item += THREADS) {
        const int node = item % NODES, first = item / NODES * 8;
        float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll 4
        for (int s = 0; s < SIGNALS; ++s) {
            const float d = back[s * NODES + node];
            const float4 a = *(const float4*)(in + s * N_IN + first);
            const float4 b = *(const float4*)(in + s * N_IN + first + 4);
            sum[0] += a.x * d, sum[1] += a.y * d, sum[2] += a.z * d, sum[3] += a.w * d;
            sum[4] += b.x * d, sum[5] += b.y * d, sum[6] += b.z * d, sum[7] += b.w * d;
        }
#pragma unroll
        for (int k = 0; k < 8; ++k)
            add_to(gradient + (first + k) * ROW + node, sum[k], is_first);
    }
    for (int node = threadIdx.x; node < NODES; node += THREADS) {
        float sum = 0;
        for (int s = 0; s < SIGNALS; ++s) sum += back[s * NODES + node];
        add_to(bias + node, sum, is_first);
    }
}

// gradient (SIGNALS, n_in) of the inputs of a linear layer, before their ReLU and dropout; the
// inputs may be overwritten
template <int N_IN>
__device__ inline void linear_backward(const float* in, const float* back, const float* weights,
                                       float* back_in, float factor) {
    for (int item = threadIdx.x; item < SIGNALS / 4 * N_IN; item += THREADS) {
        const int i = item % N_IN, group = item / N_IN;
        float sum[4] = {0, 0, 0, 0};
#pragma unroll
        for (int node = 0; node < NODES; node += 4) {
            const float4 w = *(const float4*)(weights + i * ROW + node);
#pragma unroll
            for (int s = 0; s < 4; ++s)
                add_product(sum[s], *(const float4*)(back + (4 * group + s) * NODES + node), w);
        }
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            const int at = (4 * group + s) * N_IN + i;
            back_in[at] = in[at] > 0 ? sum[s] * factor : 0.0f;
        }
    }
}

// first convolution (SIGNALS, 6, PLANE), with ReLU
__device__ inline void first_convolution(const float* w, const float* image, float* hidden) {
    float held[CHANNELS == 1 ? TAPS * CONV1 : 1];  // one channel: the weights stay in registers
    if (CHANNELS == 1) {
#pragma unroll
        for (int k = 0; k < TAPS * CONV1; ++k)
            held[CHANNELS == 1 ? k : 0] = w[AT_CONV1 + k / CONV1 * ROW1 + k % CONV1];
    }
    for (int item = threadIdx.x; item < SIGNALS * POSITIONS1; item += THREADS) {
        const int s = item / POSITIONS1, position = item % POSITIONS1;
        const float* x = image + s * SIGNAL + position / COLUMNS1 * WIDTH + position % COLUMNS1;
        float sum[CONV1];
#pragma unroll
        for (int o = 0; o < CONV1; ++o) sum[o] = w[AT_BIAS1 + o];
        for (int c = 0; c < CHANNELS; ++c) {
#pragma unroll
            for (int tap = 0; tap < TAPS; ++tap) {
                const float value = x[c * HEIGHT * WIDTH + tap / 3 * WIDTH + tap % 3];
#pragma unroll
                for (int o = 0; o < CONV1; ++o)
                    sum[o] += value * (CHANNELS == 1
                                           ? held[CHANNELS == 1 ? tap * CONV1 + o : 0]
                                           : w[AT_CONV1 + (c * TAPS + tap) * ROW1 + o]);
            }
        }
#pragma unroll
        for (int o = 0; o < CONV1; ++o)
            hidden[s * HIDDEN + o * PLANE + position] = sum[o] <= 0 ? 0.0f : sum[o];
    }
}

// 4 x 4 patch below a position of the pooling
__device__ inline void load_patch(const float* plane, int p, float (&h)[4][4]) {
    const float* corner = plane + p / COLUMNS2 * 2 * COLUMNS1 + p % COLUMNS2 * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) h[i][j] = corner[i * COLUMNS1 + j];
}

// second convolution, ReLU, max-pooling and dropout: maxima (SIGNALS, POOLED, 16) and their places
__device__ inline void second_convolution(const float* w, const float* hidden, float* pooled,
                                          unsigned char* places, const Dropout& dropout,
                                          unsigned first_signal) {
    for (int item = threadIdx.x; item < SIGNALS * POOLED * 4; item += THREADS) {
        const int o = item % 4 * 4, p = item / 4 % POOLED, s = item / (4 * POOLED);
        float sum[4][4];
#pragma unroll
        for (int q = 0; q < 4; ++q)
#pragma unroll
            for (int k = 0; k < 4; ++k) sum[q][k] = w[AT_BIAS2 + o + k];
#pragma unroll 2
        for (int c = 0; c < CONV1; ++c) {
            float h[4][4];
            load_patch(hidden + s * HIDDEN + c * PLANE, p, h);
#pragma unroll
            for (int tap = 0; tap < TAPS; ++tap) {
                const float4 v = *(const float4*)(w + AT_CONV2 + c * CHANNEL2 + tap * ROW2 + o);
#pragma unroll
                for (int q = 0; q < 4; ++q) {
                    const float value = h[q / 2 + tap / 3][q % 2 + tap % 3];
                    sum[q][0] += value * v.x, sum[q][1] += value * v.y;
                    sum[q][2] += value * v.z, sum[q][3] += value * v.w;
                }
            }
        }
        const Random drawn = dropout.draw(first_signal + s, p * 4 + o / 4);
        const int at = s * FLAT + p * CONV2 + o;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            float best = sum[0][k];
            int place = 0;
#pragma unroll
            for (int q = 1; q < 4; ++q)
                if (sum[q][k] > best || sum[q][k] != sum[q][k]) best = sum[q][k], place = q;
            pooled[at + k] = dropout.apply(best, drawn.value[k]);
            places[at + k] = (unsigned char)place;
        }
    }
}

// values at the four places of a pooling window, of four channels
__device__ inline void unpool(const float* back, const unsigned char* places, float4 (&d)[4]) {
    const float4 v = *(const float4*)back;
    const uchar4 at = *(const uchar4*)places;
#pragma unroll
    for (int q = 0; q < 4; ++q)
        d[q] = {at.x == q ? v.x : 0.0f, at.y == q ? v.y : 0.0f, at.z == q ? v.z : 0.0f,
                at.w == q ? v.w : 0.0f};
}

// gradient of the second convolution: one input and four output channels for each thread
__device__ inline void second_gradient(const float* hidden, const float* back,
                                       const unsigned char* places, float (&sum)[TAPS][4],
                                       float (&bias)[4]) {
    const int unit = threadIdx.x / LANES2, c = unit / 4, o = unit % 4 * 4;
    if (unit >= 4 * CONV1) return;
    for (int item = threadIdx.x % LANES2; item < SIGNALS * POOLED; item += LANES2) {
        const int s = item / POOLED, p = item % POOLED, at = s * FLAT + p * CONV2 + o;
        float h[4][4];
        float4 d[4];
        load_patch(hidden + s * HIDDEN + c * PLANE, p, h);
        unpool(back + at, places + at, d);
#pragma unroll
        for (int k = 0; k < 4; ++k) bias[k] += back[at + k];
#pragma unroll
        for (int tap = 0; tap < TAPS; ++tap)
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                const float value = h[q / 2 + tap / 3][q % 2 + tap % 3];
                sum[tap][0] += value * d[q].x, sum[tap][1] += value * d[q].y;
                sum[tap][2] += value * d[q].z, sum[tap][3] += value * d[q].w;
            }
    }
}

// gradient (SIGNALS, 6, PLANE) of the outputs of the first convolution, before its ReLU
__device__ inline void second_backward(const float* w, const float* back,
                                       const unsigned char* places, float* back_hidden) {
    for (int item = threadIdx.x; item < SIGNALS * CONV1; item += THREADS) {
        const int c = item % CONV1, s = item / CONV1;
        float* plane = back_hidden + s * HIDDEN + c * PLANE;
        for (int k = 0; k < PLANE; ++k) plane[k] = 0;
        for (int p = 0; p < POOLED; ++p) {
            float patch[4][4] = {};
#pragma unroll 1
            for (int o = 0; o < CONV2; o += 4) {
                const int at = s * FLAT + p * CONV2 + o;
                float4 d[4];
                unpool(back + at, places + at, d);
#pragma unroll
                for (int tap = 0; tap < TAPS; ++tap) {
                    const float4 v =
                        *(const float4*)(w + AT_CONV2 + c * CHANNEL2 + tap * ROW2 + o);
#pragma unroll
                    for (int q = 0; q < 4; ++q)
                        add_product(patch[q / 2 + tap / 3][q % 2 + tap % 3], d[q], v);
                }
            }
            float* corner = plane + p / COLUMNS2 * 2 * COLUMNS1 + p % COLUMNS2 * 2;
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) corner[i * COLUMNS1 + j] += patch[i][j];
        }
    }
}

// gradient of the first convolution, for one output channel and one input channel
__device__ inline void first_gradient(const float* image, const float* hidden,
                                      const float* back_hidden, int channel, float (&sum)[TAPS],
                                      float& bias) {
    const int o = threadIdx.x / LANES1;
    if (o >= CONV1) return;
    for (int item = threadIdx.x % LANES1; item < SIGNALS * ROWS1; item += LANES1) {
        const int s = item / ROWS1, i = item % ROWS1;
        const float* x = image + s * SIGNAL + (channel * HEIGHT + i) * WIDTH;
        const int at = s * HIDDEN + o * PLANE + i * COLUMNS1;
        float value[3][3];
#pragma unroll
        for (int a = 0; a < 3; ++a) value[a][1] = x[a * WIDTH], value[a][2] = x[a * WIDTH + 1];
#pragma unroll 6
        for (int j = 0; j < COLUMNS1; ++j) {
            const float d = hidden[at + j] > 0 ? back_hidden[at + j] : 0.0f;
            bias += d;
#pragma unroll
            for (int a = 0; a < 3; ++a) {
                value[a][0] = value[a][1], value[a][1] = value[a][2];
                value[a][2] = x[a * WIDTH + j + 2];
#pragma unroll
                for (int b = 0; b < 3; ++b) sum[a * 3 + b] += d * value[a][b];
            }
        }
    }
}

// loss of a signal; its logits become their gradient
__device__ inline float loss_of_signal(float* logits, int label, float weight, float scale,
                                       bool softmax_first) {
    float probability[CLASSES], shifted[CLASSES];
    float top = logits[0];
#pragma unroll
    for (int k = 1; k < CLASSES; ++k) top = fmaxf(top, logits[k]);
    float total = 0;
#pragma unroll
    for (int k = 0; k < CLASSES; ++k) total += probability[k] = expf(logits[k] - top);
#pragma unroll
    for (int k = 0; k < CLASSES; ++k) probability[k] /= total, shifted[k] = probability[k];
    float right = 0;
#pragma unroll
    for (int k = 0; k < CLASSES; ++k) right = k == label ? logits[k] : right;
    float loss = top + logf(total) - right;
    if (softmax_first) {  // and again softmax, by the loss
        total = right = 0;
#pragma unroll
        for (int k = 0; k < CLASSES; ++k) total += shifted[k] = expf(probability[k]);
#pragma unroll
        for (int k = 0; k < CLASSES; ++k) {
            shifted[k] /= total;
            right = k == label ? probability[k] : right;
        }
        loss = logf(total) - right;
    }
    float mean = 0;
#pragma unroll
    for (int k = 0; k < CLASSES; ++k) {
        shifted[k] = (shifted[k] - (k == label ? 1.0f : 0.0f)) * (weight * scale);
        mean += shifted[k] * probability[k];
    }
#pragma unroll
    for (int k = 0; k < CLASSES; ++k)
        logits[k] = softmax_first ? (shifted[k] - mean) * probability[k] : shifted[k];
    return weight > 0 ? weight * loss : 0.0f;
}

// x (n_rows, FEATURES), y and sample_weights (n_rows,): signals, class indices and weights
// visits (n_orders, n_visits): orders of the signals
// order_of, first_rows, sizes (n_models,): order, first row and number of signals of a model
// counters (3,): position of the batch; step for random numbers; step for learning rates
// seeds, rates, softmax_first (n_models,): dropout's seed and rate; whether as the published code
// class_weights (n_models, CLASSES); packed (n_models, N_PACKED): weights
// sums (n_models, n_blocks, N_PACKED), losses (n_models, n_blocks): results
extern "C" __global__ void __launch_bounds__(THREADS)
add_gradients(const float* x, const long long* y, const float* sample_weights,
              const long long* visits, const long long* order_of, const long long* first_rows,
              const long long* sizes, long long* counters, const long long* seeds,
              const float* rates, const long long* softmax_first, const float* class_weights,
              const float* packed, float* sums, float* losses, int batch_size, int n_visits,
              int turns) {
    extern __shared__ float4 memory[];
    float* const w = (float*)memory;
    float *image = w + IMAGE, *hidden = w + HIDDEN1, *back_hidden = w + BACK1;
    float *pooled = w + POOL, *nodes1 = w + NODES1, *nodes2 = w + NODES2;
    float *back1 = w + BACK_NODES1, *back2 = w + BACK_NODES2, *logits = w + LOGITS;
    float* signal_weights = w + SIGNAL_WEIGHTS;
    unsigned char* places = (unsigned char*)(w + PLACE);
    long long* signal_rows = (long long*)(w + SIGNAL_ROWS);
    int* labels = (int*)(w + LABELS);

    const int model = blockIdx.y, block = blockIdx.x, n_blocks = gridDim.x;
    packed += (long long)model * N_PACKED;
    float* own = sums + ((long long)model * n_blocks + block) * N_PACKED;
    const long long start = counters[0];
    visits += order_of[model] * n_visits + start;
    const long long left = sizes[model] - start;  // this model may have fewer signals than others
    const int counted = left < batch_size ? (left > 0 ? (int)left : 0) : batch_size;
    const float scale = 1.0f / larger(counted, 1), rate = rates[model];
    const Dropout dropout = {(unsigned long long)seeds[model], (unsigned long long)counters[1],
                             (unsigned)(rate * 4294967296.0), 1.0f / (1.0f - rate)};
    const float* fc1 = WHOLE_FC1 ? w + AT_FC1 : packed + AT_FC1;

    for (int i = threadIdx.x; i < N_SHARED_WEIGHTS / 4; i += THREADS)
        memory[i] = ((const float4*)packed)[i];

    float sum1[CHANNELS == 1 ? TAPS : 1] = {}, bias1 = 0, sum2[TAPS][4] = {}, bias2[4] = {};
    float loss = 0;
    for (int turn = 0; turn < turns; ++turn) {
        const bool is_first = turn == 0;
        const int first = (turn * n_blocks + block) * SIGNALS;
        __syncthreads();
        for (int s = threadIdx.x; s < SIGNALS; s += THREADS) {
            const bool counts = first + s < counted;
            const long long row = counts ? first_rows[model] + visits[first + s] : -1;
            const int label = counts ? (int)y[row] : 0;
            signal_rows[s] = row;
            labels[s] = label;
            float weight = counts ? class_weights[model * CLASSES + label] : 0.0f;
            if (WEIGHTED && counts) weight *= sample_weights[row];
            signal_weights[s] = weight;
        }
        __syncthreads();
        for (int item = threadIdx.x; item < SIGNALS * SIGNAL; item += THREADS) {
            const int s = item / SIGNAL, k = item % SIGNAL, c = k / (HEIGHT * WIDTH);
            const int i = k / WIDTH % HEIGHT, j = k % WIDTH;
            const int feature = (i * GRID_COLUMNS + j) * CHANNELS + c;
            const bool measured = i < GRID_ROWS && j < GRID_COLUMNS && feature < FEATURES;
            const long long row = signal_rows[s];
            image[item] = measured && row >= 0 ? x[row * FEATURES + feature] : 0.0f;
        }
        __syncthreads();
        first_convolution(w, image, hidden);
        __syncthreads();
        second_convolution(w, hidden, pooled, places, dropout, first);
        __syncthreads();
        linear_forward<FLAT>(pooled, fc1, w + AT_NODES1, nodes1, dropout, first / 4, POOLED * 4);
        __syncthreads();
        linear_forward<NODES>(nodes1, w + AT_FC2, w + AT_NODES2, nodes2, dropout, first / 4,
                              POOLED * 4 + NODES);
        __syncthreads();
        for (int item = threadIdx.x; item < SIGNALS * CLASSES; item += THREADS) {
            const int s = item / CLASSES, k = item % CLASSES;
            float sum = w[AT_CLASSES + k];
#pragma unroll 8
            for (int i = 0; i < NODES; ++i)
                sum += nodes2[s * NODES + i] * w[AT_FC3 + i * CLASS_ROW + k];
            logits[s * CLASS_ROW + k] = sum;
        }
        __syncthreads();
        for (int s = threadIdx.x; s < SIGNALS; s += THREADS)
            loss += loss_of_signal(logits + s * CLASS_ROW, labels[s], signal_weights[s], scale,
                                   softmax_first[model] != 0);
        __syncthreads();
        for (int item = threadIdx.x; item < NODES * CLASSES; item += THREADS) {
            const int i = item / CLASSES, k = item % CLASSES;
            float sum = 0;
            for (int s = 0; s < SIGNALS; ++s)
                sum += nodes2[s * NODES + i] * logits[s * CLASS_ROW + k];
            add_to(own + AT_FC3 + i * CLASS_ROW + k, sum, is_first);
        }
        for (int k = threadIdx.x; k < CLASSES; k += THREADS) {
            float sum = 0;
            for (int s = 0; s < SIGNALS; ++s) sum += logits[s * CLASS_ROW + k];
            add_to(own + AT_CLASSES + k, sum, is_first);
        }
        for (int item = threadIdx.x; item < SIGNALS * NODES; item += THREADS) {
            const int s = item / NODES, i = item % NODES;
            float sum = 0;
#pragma unroll
            for (int k = 0; k < CLASSES; ++k)
                sum += logits[s * CLASS_ROW + k] * w[AT_FC3 + i * CLASS_ROW + k];
            back2[item] = nodes2[item] > 0 ? sum * dropout.factor : 0.0f;
        }
        __syncthreads();
        linear_gradient<NODES>(nodes1, back2, own + AT_FC2, own + AT_NODES2, is_first);
        linear_backward<NODES>(nodes1, back2, w + AT_FC2, back1, dropout.factor);
        __syncthreads();
        linear_gradient<FLAT>(pooled, back1, own + AT_FC1, own + AT_NODES1, is_first);
        __syncthreads();
        linear_backward<FLAT>(pooled, back1, fc1, pooled, dropout.factor);
        __syncthreads();
        second_gradient(hidden, pooled, places, sum2, bias2);
        second_backward(w, pooled, places, back_hidden);
        __syncthreads();
        if (CHANNELS == 1) {
            first_gradient(image, hidden, back_hidden, 0, (float(&)[TAPS])sum1, bias1);
        } else {
            float bias = 0, unused = 0;
            for (int c = 0; c < CHANNELS; ++c) {
                float sum[TAPS] = {};
                first_gradient(image, hidden, back_hidden, c, sum, c ? unused : bias);
                const int o = threadIdx.x / LANES1;
#pragma unroll
                for (int tap = 0; tap < TAPS; ++tap) {
                    const float total = sum_of_lanes(sum[tap], LANES1);
                    if (o < CONV1 && threadIdx.x % LANES1 == 0)
                        add_to(own + AT_CONV1 + (c * TAPS + tap) * ROW1 + o, total, is_first);
                }
            }
            bias1 += bias;
        }
    }

    const int unit = threadIdx.x / LANES2, c = unit / 4, o = unit % 4 * 4;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int tap = 0; tap < TAPS; ++tap) {
            const float total = sum_of_lanes(sum2[tap][k], LANES2);
            if (unit < 4 * CONV1 && threadIdx.x % LANES2 == 0)
                own[AT_CONV2 + c * CHANNEL2 + tap * ROW2 + o + k] = total;
        }
        const float total = sum_of_lanes(bias2[k], LANES2);
        if (unit < 4 && threadIdx.x % LANES2 == 0) own[AT_BIAS2 + o + k] = total;
    }
    const int o1 = threadIdx.x / LANES1;
    const bool writes = o1 < CONV1 && threadIdx.x % LANES1 == 0;
    if (CHANNELS == 1) {
#pragma unroll
        for (int tap = 0; tap < TAPS; ++tap) {
            const float total = sum_of_lanes(sum1[CHANNELS == 1 ? tap : 0], LANES1);
            if (writes) own[AT_CONV1 + tap * ROW1 + o1] = total;
        }
    }
    const float total = sum_of_lanes(bias1, LANES1);
    if (writes) own[AT_BIAS1 + o1] = total;

    __syncthreads();
    if (threadIdx.x < SIGNALS) logits[threadIdx.x] = loss;
    __syncthreads();
    if (threadIdx.x == 0) {
        float sum = 0;
        for (int s = 0; s < smaller(SIGNALS, THREADS); ++s) sum += logits[s];
        losses[model * n_blocks + block] = sum;
        if (model == 0 && block == 0) counters[2] += 1;
    }
}

constexpr int WEIGHTS = 32, PARTS = 16;  // of a block of `update_weights`, which is their product

// weights, first_moment (momentum of SGD), second_moment (n_models, N_WEIGHTS)
// packed, sums, losses, counters: see `add_gradients`; totals (n_models,): losses of the epoch
// weight_at (N_PACKED,): the weight at each position of `packed`, or -1
// learning_rates (n_steps, n_models); corrections (n_steps, 2): 1 - beta_1^t, (1 - beta_2^t)^(1/2)
// decays, momenta (n_models,)
extern "C" __global__ void __launch_bounds__(WEIGHTS* PARTS)
update_weights(float* weights, float* first_moment, float* second_moment, float* packed,
               const float* sums, const float* losses, double* totals,
               const int* weight_at, long long* counters, const float* learning_rates,
               const float* corrections, const float* decays, const float* momenta, int n_blocks,
               int batch_size) {
    __shared__ float parts[PARTS][WEIGHTS];
    const int model = blockIdx.y, column = threadIdx.x % WEIGHTS, part = threadIdx.x / WEIGHTS;
    const int position = blockIdx.x * WEIGHTS + column;
    if (blockIdx.x == gridDim.x - 1) {  // the last block has no weights
        float sum = 0;
        for (int b = threadIdx.x; b < n_blocks; b += WEIGHTS * PARTS)
            sum += losses[model * n_blocks + b];
        sum = sum_of_lanes(sum, 32);
        if (column == 0) parts[part][0] = sum;
        __syncthreads();
        if (threadIdx.x == 0) {
            double whole = 0;
            for (int k = 0; k < PARTS; ++k) whole += parts[k][0];
            totals[model] += whole;
            if (model == 0) counters[0] += batch_size, counters[1] += 1;
        }
        return;
    }
    sums += (long long)model * n_blocks * N_PACKED;
    const int at = position < N_PACKED ? weight_at[position] : -1;
    float some = 0;
    if (at >= 0) {
#pragma unroll 8
        for (int b = part; b < n_blocks; b += PARTS) some += sums[(long long)b * N_PACKED + position];
    }
    parts[part][column] = some;
    __syncthreads();
    if (part > 0 || at < 0) return;
    float g = 0;
#pragma unroll
    for (int k = 0; k < PARTS; ++k) g += parts[k][column];
    const long long place = (long long)model * N_WEIGHTS + at;
    const long long step = counters[2] - 1;
    const float rate = learning_rates[step * gridDim.y + model], decay = decays[model];
    float weight = weights[place], m = first_moment[place];
    if (OPTIMIZER == 1) {
        // beta_1 = 0.9, beta_2 = 0.999, epsilon = 1e-8, in the order of torch's AdamW
        float v = second_moment[place];
        weight -= rate * decay * weight;
        m += (g - m) * 0.1f;
        v = v * 0.999f + g * g * 0.001f;
        const float size = rate / corrections[2 * step];
        weight -= size * m / (sqrtf(v) / corrections[2 * step + 1] + 1e-8f);
        second_moment[place] = v;
    } else {
        m = m * momenta[model] + (g + decay * weight);
        weight -= rate * m;
    }
    first_moment[place] = m;
    weights[place] = weight;
    packed[(long long)model * N_PACKED + position] = weight;
}
