// Just enough of CUDA to run the kernels on a processor: the threads of a block are fibers, which
// change at barriers, so that a block runs in one thread and always in the same order.
#include <cmath>
#include <csetjmp>
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
    jmp_buf place;  // jumps need no system call, unlike changes of contexts
    bool started, done;
};

static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static jmp_buf scheduler_place;
static std::vector<float> exchanged;
static void (*run_kernel)(void**);
static void** kernel_arguments;

static void __syncthreads() {
    if (!_setjmp(fibers[threadIdx.x].place)) _longjmp(scheduler_place, 1);
}

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
    _longjmp(scheduler_place, 1);
}

static void resume(Fiber& fiber) {
    if (_setjmp(scheduler_place)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

static void run_block(int n_threads) {
    for (int t = 0; t < n_threads; ++t) {
        Fiber& fiber = fibers[t];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &scheduler;
        fiber.started = fiber.done = false;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (bool busy = true; busy;) {
        busy = false;
        for (int t = 0; t < n_threads; ++t) {
            if (fibers[t].done) continue;
            threadIdx = {t, 0};
            resume(fibers[t]);
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
