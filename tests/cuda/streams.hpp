// Streams that put off: a stream has a thread of its own, and the thread begins nothing before somebody has asked for it,
// by waiting or by asking whether an event has happened (the first answer is always "not ready"). So whoever reads a result without
// having waited for it reads what was there before, every time.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

#include "memory.hpp"

namespace streams {

// The first failure of a piece of work is the answer to every later call.
inline std::atomic<int> sticky{0};

class Stream {
    std::mutex lock;
    std::condition_variable changed;
    std::deque<std::function<void()>> waiting;
    uint64_t given = 0, wanted = 0, done = 0;
    bool ends = false;
    std::thread worker{[this] { work(); }};

    void work() {
        std::unique_lock guard(lock);
        for (;;) {
            changed.wait(guard, [&] { return ends || done < wanted; });
            if (done >= wanted) return;
            auto task = std::move(waiting.front());
            waiting.pop_front();
            guard.unlock();
            try {
                // What has failed touches nothing any more.
                if (!sticky) task();
            } catch (const memory::Fault &fault) {
                int none = 0;
                sticky.compare_exchange_strong(none, fault.error);
            }
            guard.lock();
            done++;
            changed.notify_all();
        }
    }

   public:
    ~Stream() {
        wait();
        {
            std::lock_guard guard(lock);
            ends = true;
        }
        changed.notify_all();
        worker.join();
    }

    void give(std::function<void()> task) {
        std::lock_guard guard(lock);
        waiting.push_back(std::move(task));
        given++;
    }

    // How much was given so far.
    uint64_t end() {
        std::lock_guard guard(lock);
        return given;
    }

    // Whether as much as that is done. From now on it is wanted.
    bool has_done(uint64_t count) {
        std::lock_guard guard(lock);
        wanted = std::max(wanted, count);
        changed.notify_all();
        return done >= count;
    }

    void wait() {
        std::unique_lock guard(lock);
        wanted = given;
        changed.notify_all();
        changed.wait(guard, [&] { return done >= wanted; });
    }
};

struct Event {
    Stream *stream = nullptr;
    uint64_t place = 0;
    bool was_asked = false;
};

inline std::mutex list_lock;
inline std::set<Stream *> list;

// All that was given to any stream, as when memory is freed.
inline void wait_for_all() {
    std::lock_guard guard(list_lock);
    for (Stream *stream : list) stream->wait();
}

}  // namespace streams
