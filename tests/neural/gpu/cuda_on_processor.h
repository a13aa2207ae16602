// Just enough of CUDA to run the kernels on a processor: the threads of a block are fibers, which
// change at barriers, so that a block runs in one thread and always in the same order.
#include <cmath>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(n)

struct alignas(16) float4 {
    float x, y, z, w;
};
struct uchar4 {
    unsigned char x, y, z, w;
};
struct Index {
    int x, y;
};

static Index threadIdx, blockIdx, gridDim;
alignas(16) float4 memory[1 << 14];  // dynamic shared memory, 256 KiB

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool done;
};

static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static std::vector<float> exchanged;
static void (*run_kernel)(void**);
static void** kernel_arguments;

static void __syncthreads() { swapcontext(&fibers[threadIdx.x].context, &scheduler); }

static float __shfl_xor_sync(unsigned, float value, int distance) {
    exchanged[threadIdx.x] = value;
    __syncthreads();
    const float other = exchanged[threadIdx.x ^ distance];
    __syncthreads();
    return other;
}

static void run_fiber() {
    run_kernel(kernel_arguments);
    fibers[threadIdx.x].done = true;
}

static void run_block(int n_threads) {
    for (int t = 0; t < n_threads; ++t) {
        Fiber& fiber = fibers[t];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &scheduler;
        fiber.done = false;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (bool busy = true; busy;) {
        busy = false;
        for (int t = 0; t < n_threads; ++t) {
            if (fibers[t].done) continue;
            threadIdx = {t, 0};
            swapcontext(&scheduler, &fibers[t].context);
            busy = true;
        }
    }
}

template <class... Arguments, std::size_t... K>
static void call(void (*kernel)(Arguments...), void** arguments, std::index_sequence<K...>) {
    kernel(*(Arguments*)arguments[K]...);
}

template <class... Arguments>
static void call(void (*kernel)(Arguments...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<Arguments...>());
}

static void launch(void (*kernel)(void**), int columns, int rows, int n_threads, void** arguments) {
    fibers.resize(n_threads);
    for (Fiber& fiber : fibers) fiber.stack.resize(1 << 16);
    exchanged.assign(n_threads + 32, 0);
    run_kernel = kernel, kernel_arguments = arguments, gridDim = {columns, rows};
    for (int y = 0; y < rows; ++y)
        for (int x = 0; x < columns; ++x) {
            blockIdx = {x, y};
            run_block(n_threads);
        }
}

#define LAUNCHER(kernel)                                                                      \
    extern "C" void launch_##kernel(int columns, int rows, int n_threads, void** arguments) { \
        launch([](void** a) { call(kernel, a); }, columns, rows, n_threads, arguments);       \
    }
