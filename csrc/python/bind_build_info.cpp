#include "core/build_info.h"
#include "core/cpu_kernels.h"
#include "core/log_queue.h"
#include "core/progress.h"
#include "python/module.h"

namespace dmr::python {
namespace {

py::dict build_info_dict() {
    const BuildInfo info = build_info();
    py::dict        dict;
    dict["version"]           = info.version;
    dict["flavour"]           = info.flavour;
    dict["compiler"]          = info.compiler;
    dict["llama_cpp_commit"]  = info.llama_cpp_commit;
    dict["llama_cpp_version"] = info.llama_cpp_version;
    dict["backends"]          = info.backends;
    dict["cpu_features"]      = info.cpu_features;
    return dict;
}

py::list device_dicts() {
    py::list list;
    for (const auto & device : devices()) {
        py::dict dict;
        dict["name"]        = device.name;
        dict["description"] = device.description;
        dict["kind"]        = device.kind;
        dict["free_bytes"]  = device.free_bytes;
        dict["total_bytes"] = device.total_bytes;
        list.append(dict);
    }
    return list;
}

py::list take_log(double timeout) {
    require(timeout >= 0.0 && timeout <= 3600.0, "timeout is out of range");
    std::vector<LogRecord> records;
    {
        py::gil_scoped_release released;
        records = take_log_records(std::chrono::milliseconds(static_cast<int64_t>(timeout * 1000.0)));
    }
    py::list lines;
    for (const auto & record : records) {
        lines.append(py::make_tuple(static_cast<int>(record.level), decoded(record.text)));
    }
    return lines;
}

void set_level(int level) {
    require(level >= 1 && level <= 4, "level is 1 (debug) to 4 (error)");
    set_log_level(static_cast<LogLevel>(level));
}

}  // namespace

void register_build_info(py::module_ & module) {
    module.def("build_info", build_info_dict, "What this build is: version, flavour, compiler, llama.cpp, back ends.");
    module.def("devices", device_dicts, "Devices found, with free and total memory in bytes.");
    module.def("take_log", take_log, py::arg("timeout") = 0.0,
               "Log lines of ggml and llama.cpp since the last call, as (level, line); waits up to `timeout` seconds.");
    module.def("set_log_level", set_level, py::arg("level"),
               "Drop lines below `level`: 1 debug, 2 info, 3 warning, 4 error.");
    module.def("num_operations", num_operations,
               "Operations of graphs that were computed in this process; any thread.");
    module.def("use_own_kernels", use_own_kernels, py::arg("is_used"),
               "Compute what csrc/cpu has kernels for with them, as from the start, or with ggml's. Between two graphs "
               "of this process. False: this build has none.");
    module.def("num_own_operations", num_own_operations,
               "How many operations they computed in this process; any thread.");
}

}  // namespace dmr::python
