// A stand-in for `libcuda.so.1`, for tests on machines without a GPU: the part of the driver's interface that `src/device/cuda`
// uses, with the library's own kernels compiled for the CPU (`reach.hpp`), memory that the host cannot touch (`memory.hpp`) and
// streams that begin late (`streams.hpp`). It is stricter than a driver, and slow.
//
//   ROUNDEL_STANDIN_DEVICES=N              how many devices there are (1)
//   ROUNDEL_STANDIN_VERSION=N              what cuDriverGetVersion says (13000)
//   ROUNDEL_STANDIN_FAIL=cuX@N=E,..        the N-th call of cuX answers E; cuX@N=E+ lets it pass, and fail when it runs
//
// Compiled with -DWITHOUT_POINTER_ATTRIBUTES it lacks a function, as an old driver would.
#include "entries.cuh"
#include "streams.hpp"

MODULE_i8 MODULE_u8 MODULE_i32 MODULE_u32 MODULE_i64 MODULE_u64 MODULE_f16 MODULE_bf16 MODULE_f32 MODULE_f64 MODULE_f8e4m3
MODULE_f8e5m2 MODULE_copy

namespace {

constexpr int SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101;
constexpr int INVALID_CONTEXT = 201, INVALID_PTX = 218, UNSUPPORTED_PTX_VERSION = 222, INVALID_HANDLE = 400, NOT_FOUND = 500;
constexpr int NOT_READY = 600, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713;

int setting(const char *name, int otherwise) {
    const char *text = std::getenv(name);
    return text ? std::atoi(text) : otherwise;
}

struct Answer {
    int now = SUCCESS, later = SUCCESS;
};

// What the environment wants of this call.
Answer injected(const std::string &function) {
    static std::mutex lock;
    static std::map<std::string, int> calls;
    std::lock_guard guard(lock);
    const int call = ++calls[function];
    const char *text = std::getenv("ROUNDEL_STANDIN_FAIL");
    for (std::string rest = text ? text : ""; !rest.empty();) {
        const size_t comma = std::min(rest.find(','), rest.size());
        const std::string one = rest.substr(0, comma);
        rest.erase(0, comma + 1);
        const size_t at = one.find('@'), is = one.find('=');
        if (one.substr(0, at) != function || std::atoi(one.c_str() + at + 1) != call) continue;
        const int error = std::atoi(one.c_str() + is + 1);
        return one.back() == '+' ? Answer{SUCCESS, error} : Answer{error, SUCCESS};
    }
    return {};
}

bool is_initialised = false;
int context = 0;  // Its address is the handle.
thread_local std::vector<void *> current;

struct Module {
    std::map<std::string, size_t> entries;  // bytes of their parameters
};

struct Function {
    std::string name;
};

// Fills in the first thing that is wrong with a call that needs a context.
#define ENTER(NAME)                                    \
    const Answer answer = injected(#NAME);             \
    if (answer.now) return answer.now;                 \
    if (!is_initialised) return NOT_INITIALIZED;       \
    if (current.empty()) return INVALID_CONTEXT;       \
    if (streams::sticky) return streams::sticky;

// Puts work in line that fails when it runs, where that is wanted.
void give(void *stream, const Answer &answer, std::function<void()> task) {
    static_cast<streams::Stream *>(stream)->give([answer, task] {
        if (answer.later) throw memory::Fault{answer.later};
        task();
    });
}

}  // namespace

extern "C" {

int cuInit(unsigned) {
    if (const Answer answer = injected("cuInit"); answer.now) return answer.now;
    if (setting("ROUNDEL_STANDIN_DEVICES", 1) == 0) return NO_DEVICE;
    is_initialised = true;
    return SUCCESS;
}

int cuDriverGetVersion(int *version) { return *version = setting("ROUNDEL_STANDIN_VERSION", 13000), SUCCESS; }

int cuDeviceGetCount(int *count) {
    if (!is_initialised) return NOT_INITIALIZED;
    return *count = setting("ROUNDEL_STANDIN_DEVICES", 1), SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    if (!is_initialised) return NOT_INITIALIZED;
    if (ordinal < 0 || ordinal >= setting("ROUNDEL_STANDIN_DEVICES", 1)) return INVALID_DEVICE;
    return *device = ordinal, SUCCESS;
}

int cuDeviceGetName(char *name, int len, int) { return std::snprintf(name, len, "stand-in"), SUCCESS; }

int cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
        case 16: return *value = 2, SUCCESS;      // multiprocessors
        case 39: return *value = 1024, SUCCESS;   // threads of one
        case 75: return *value = 7, SUCCESS;      // compute capability
        case 76: return *value = 5, SUCCESS;
        default: return INVALID_VALUE;
    }
}

int cuDevicePrimaryCtxRetain(void **handle, int) {
    if (const Answer answer = injected("cuDevicePrimaryCtxRetain"); answer.now) return answer.now;
    return *handle = &context, SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }

int cuCtxPushCurrent_v2(void *handle) {
    if (const Answer answer = injected("cuCtxPushCurrent_v2"); answer.now) return answer.now;
    if (handle != &context) return INVALID_CONTEXT;
    return current.push_back(handle), SUCCESS;
}

int cuCtxPopCurrent_v2(void **handle) {
    if (current.empty()) return INVALID_CONTEXT;
    if (handle) *handle = current.back();
    return current.pop_back(), SUCCESS;
}

int cuCtxGetCurrent(void **handle) { return *handle = current.empty() ? nullptr : current.back(), SUCCESS; }

int cuMemAlloc_v2(uint64_t *pointer, size_t len_bytes) {
    ENTER(cuMemAlloc_v2)
    if (len_bytes == 0) return INVALID_VALUE;
    *pointer = memory::map().allocate(len_bytes);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}

int cuMemFree_v2(uint64_t pointer) {
    ENTER(cuMemFree_v2)
    streams::wait_for_all();
    return memory::map().remove(pointer) ? SUCCESS : INVALID_VALUE;
}

int cuMemHostAlloc(void **pointer, size_t len_bytes, unsigned) {
    ENTER(cuMemHostAlloc)
    if (len_bytes == 0) return INVALID_VALUE;
    *pointer = std::aligned_alloc(memory::PAGE, (len_bytes + memory::PAGE - 1) / memory::PAGE * memory::PAGE);
    if (!*pointer) return OUT_OF_MEMORY;
    std::memset(*pointer, memory::POISON, len_bytes);
    memory::map().add_host(*pointer, len_bytes, false);
    return SUCCESS;
}

int cuMemFreeHost(void *pointer) {
    ENTER(cuMemFreeHost)
    streams::wait_for_all();
    if (!memory::map().remove(reinterpret_cast<uint64_t>(pointer))) return INVALID_VALUE;
    return std::free(pointer), SUCCESS;
}

int cuMemHostRegister_v2(void *start, size_t len_bytes, unsigned) {
    ENTER(cuMemHostRegister_v2)
    if (len_bytes == 0) return INVALID_VALUE;
    const uint64_t first = reinterpret_cast<uint64_t>(start);
    memory::Piece piece;
    if (memory::map().find(first, piece) || memory::map().find(first + len_bytes - 1, piece)) return ALREADY_REGISTERED;
    return memory::map().add_host(start, len_bytes, true), SUCCESS;
}

int cuMemHostUnregister(void *start) {
    ENTER(cuMemHostUnregister)
    streams::wait_for_all();
    const uint64_t device = reinterpret_cast<uint64_t>(start) + memory::REGISTERED;
    return memory::map().remove(device) ? SUCCESS : NOT_REGISTERED;
}

#ifndef WITHOUT_POINTER_ATTRIBUTES
int cuPointerGetAttributes(unsigned count, const unsigned *attributes, void **data, uint64_t pointer) {
    ENTER(cuPointerGetAttributes)
    memory::Piece piece{};
    const bool is_known = memory::map().find(pointer, piece);
    const uint64_t host = reinterpret_cast<uint64_t>(piece.bytes);
    const bool by_device = pointer - piece.device < piece.len_bytes;
    const uint64_t offset = pointer - (by_device ? piece.device : host);
    for (unsigned i = 0; i < count; i++) {
        switch (attributes[i]) {
            case 2: *static_cast<unsigned *>(data[i]) = is_known ? static_cast<unsigned>(piece.kind) : 0; break;
            case 3: *static_cast<uint64_t *>(data[i]) = is_known ? piece.device + offset : 0; break;
            case 9: *static_cast<int *>(data[i]) = is_known ? 0 : -2; break;
            case 11: *static_cast<uint64_t *>(data[i]) = is_known ? piece.device : 0; break;
            case 12: *static_cast<size_t *>(data[i]) = is_known ? piece.len_bytes : 0; break;
            default: return INVALID_VALUE;
        }
    }
    return SUCCESS;
}
#endif

int cuStreamCreate(void **stream, unsigned) {
    ENTER(cuStreamCreate)
    auto *made = new streams::Stream;
    std::lock_guard guard(streams::list_lock);
    streams::list.insert(made);
    return *stream = made, SUCCESS;
}

int cuStreamDestroy_v2(void *stream) {
    auto *gone = static_cast<streams::Stream *>(stream);
    {
        std::lock_guard guard(streams::list_lock);
        if (!streams::list.erase(gone)) return INVALID_HANDLE;
    }
    return delete gone, SUCCESS;
}

int cuStreamSynchronize(void *stream) {
    ENTER(cuStreamSynchronize)
    static_cast<streams::Stream *>(stream)->wait();
    return streams::sticky;
}

int cuEventCreate(void **event, unsigned) {
    ENTER(cuEventCreate)
    return *event = new streams::Event, SUCCESS;
}

int cuEventDestroy_v2(void *event) { return delete static_cast<streams::Event *>(event), SUCCESS; }

int cuEventRecord(void *event, void *stream) {
    ENTER(cuEventRecord)
    auto *recorded = static_cast<streams::Event *>(event);
    give(stream, answer, [] {});
    *recorded = {static_cast<streams::Stream *>(stream), static_cast<streams::Stream *>(stream)->end(), false};
    return SUCCESS;
}

int cuEventQuery(void *event) {
    ENTER(cuEventQuery)
    auto *asked = static_cast<streams::Event *>(event);
    if (!asked->stream) return SUCCESS;
    const bool is_done = asked->stream->has_done(asked->place);
    if (streams::sticky) return streams::sticky;
    const bool is_first = !asked->was_asked;
    asked->was_asked = true;
    return is_done && !is_first ? SUCCESS : NOT_READY;
}

int cuMemcpyAsync(uint64_t into, uint64_t from, size_t len_bytes, void *stream) {
    ENTER(cuMemcpyAsync)
    if (len_bytes == 0) return SUCCESS;
    give(stream, answer, [=] {
        std::memmove(memory::map().for_copy(into, len_bytes), memory::map().for_copy(from, len_bytes), len_bytes);
    });
    return SUCCESS;
}

int cuMemsetD8Async(uint64_t into, unsigned char byte, size_t len_bytes, void *stream) {
    ENTER(cuMemsetD8Async)
    give(stream, answer, [=] { std::memset(memory::map().for_copy(into, len_bytes), byte, len_bytes); });
    return SUCCESS;
}

int cuModuleLoadData(void **handle, const void *image) {
    ENTER(cuModuleLoadData)
    const std::string text = static_cast<const char *>(image);
    const size_t version = text.find(".version ");
    if (version != 0) return INVALID_PTX;
    // PTX 8.2 came with CUDA 12.2, and so on: 7.8 with 11.8, 9.0 with 13.0.
    const double needed = std::atof(text.c_str() + version + 9), cuda = setting("ROUNDEL_STANDIN_VERSION", 13000) / 1000.0;
    if (needed + 4.0 > static_cast<int>(cuda) + (cuda - static_cast<int>(cuda)) * 10 + 0.05) return UNSUPPORTED_PTX_VERSION;
    auto *module = new Module;
    const std::string entry = ".entry ";
    for (size_t at = text.find(entry); at != std::string::npos; at = text.find(entry, at + 1)) {
        const size_t name = at + entry.size(), end = text.find('(', name), size = text.find('[', end);
        module->entries[text.substr(name, end - name)] = std::atoi(text.c_str() + size + 1);
    }
    return *handle = module, SUCCESS;
}

int cuModuleUnload(void *module) { return delete static_cast<Module *>(module), SUCCESS; }

int cuModuleGetFunction(void **handle, void *module, const char *name) {
    ENTER(cuModuleGetFunction)
    const auto &entries = static_cast<Module *>(module)->entries;
    const auto entry = entries.find(name);
    const auto kernel = reach::kernels().find(name);
    if (entry == entries.end() || kernel == reach::kernels().end()) return NOT_FOUND;
    // The PTX and this library are to come from the same sources.
    if (entry->second != kernel->second.call_bytes) return INVALID_PTX;
    static std::mutex lock;
    static std::map<std::string, Function> functions;
    std::lock_guard guard(lock);
    return *handle = &functions.try_emplace(name, Function{name}).first->second, SUCCESS;
}

int cuLaunchKernel(void *function, unsigned grid, unsigned grid_y, unsigned grid_z, unsigned block, unsigned block_y, unsigned block_z,
                   unsigned, void *stream, void **parameters, void **) {
    ENTER(cuLaunchKernel)
    if (grid == 0 || block == 0 || block > 1024 || grid_y * grid_z * block_y * block_z != 1) return INVALID_VALUE;
    const reach::Kernel &kernel = reach::kernels().at(static_cast<Function *>(function)->name);
    const auto *start = static_cast<const unsigned char *>(parameters[0]);
    auto call = std::make_shared<std::vector<uint64_t>>((kernel.call_bytes + 7) / 8);
    std::memcpy(call->data(), start, kernel.call_bytes);
    give(stream, answer, [=, &kernel] {
        memory::reached = memory::map().all();
        // Backwards: no thread may count on one before it.
        const u64 threads = static_cast<u64>(grid) * block;
        for (u64 i = threads; i-- > 0;) {
            reach::place = {i, threads};
            kernel.run(call->data());
        }
        memory::reached = nullptr;
    });
    return SUCCESS;
}

int cuGetErrorName(int error, const char **name) {
    switch (error) {
        case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
        case UNSUPPORTED_PTX_VERSION: *name = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"; break;
        case memory::ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        case memory::MISALIGNED_ADDRESS: *name = "CUDA_ERROR_MISALIGNED_ADDRESS"; break;
        case 719: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
        default: return *name = nullptr, INVALID_VALUE;
    }
    return SUCCESS;
}

int cuGetErrorString(int error, const char **text) {
    if (error != OUT_OF_MEMORY) return *text = nullptr, INVALID_VALUE;
    return *text = "out of memory", SUCCESS;
}

}  // extern "C"
