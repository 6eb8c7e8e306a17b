// One register function for each exposed type, and what they share. No binding file knows another.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "core/errors.h"

namespace dmr::python {

namespace py = pybind11;

// Text that may quote a file's bytes or half a character: what is no UTF-8 becomes U+FFFD instead of an error.
inline py::str decoded(const std::string & text) {
    return py::reinterpret_steal<py::str>(
        PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "replace"));
}

// Released around everything that can take time.
using ReleaseGil = py::call_guard<py::gil_scoped_release>;

// What Python holds: an object that can be closed early and that one thread uses at a time. Others wait for it (without
// the GIL), so no use from several Python threads can break it.
template <typename T> class Handle {
  public:
    explicit Handle(std::shared_ptr<T> value) : value_(std::move(value)) {}

    // Tearing down can take long, and must not hold the GIL.
    ~Handle() {
        if (value_ != nullptr) {
            py::gil_scoped_release released;
            value_.reset();
        }
    }

    // The object itself, for uses that are safe at any time. Throws when closed.
    std::shared_ptr<T> shared() const {
        std::lock_guard<std::mutex> lock(pointer_mutex_);
        if (value_ == nullptr) {
            throw Error("this object was closed");
        }
        return value_;
    }

    // Runs `work(T &)` alone. The GIL must not be held.
    template <typename Work> auto alone(Work work) {
        std::lock_guard<std::mutex> lock(use_mutex_);
        const auto                  value = shared();
        return work(*value);
    }

    // Keeps all others out while it is locked. Lock it without the GIL.
    std::mutex & use_mutex() { return use_mutex_; }

    void close() {
        std::lock_guard<std::mutex> lock(use_mutex_);
        std::shared_ptr<T>          last;
        {
            std::lock_guard<std::mutex> pointer_lock(pointer_mutex_);
            last.swap(value_);
        }
    }

  private:
    mutable std::mutex pointer_mutex_;
    std::mutex         use_mutex_;
    std::shared_ptr<T> value_;
};

void register_errors(py::module_ & module);
void register_build_info(py::module_ & module);
void register_model(py::module_ & module);
void register_projector(py::module_ & module);
void register_context(py::module_ & module);
void register_sampler(py::module_ & module);
void register_detokenizer(py::module_ & module);
void register_chat(py::module_ & module);
void register_step(py::module_ & module);
void register_quantize(py::module_ & module);

}  // namespace dmr::python
