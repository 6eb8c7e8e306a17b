#include "core/chat_parser_tree.h"

#include <map>
#include <set>
#include <vector>

#include "json.h"  // llama-common's

namespace dmr {
namespace {

std::string type_of(const common_json & node) { return node.at("type").get<std::string>(); }

std::vector<size_t> children_of(const common_json & tree, const common_json & node) {
    if (node.contains("children")) {
        return node.at("children").get<std::vector<size_t>>();
    }
    if (node.contains("child")) {
        return {node.at("child").get<size_t>()};
    }
    if (type_of(node) == "ref") {
        return {tree.at("rules").at(node.at("name").get<std::string>()).get<size_t>()};
    }
    return {};
}

std::set<size_t> reachable_from(const common_json & tree, size_t root) {
    std::set<size_t>    found;
    std::vector<size_t> open = {root};
    while (!open.empty()) {
        const size_t id = open.back();
        open.pop_back();
        if (found.insert(id).second) {
            for (const size_t child : children_of(tree, tree.at("parsers").at(id))) {
                open.push_back(child);
            }
        }
    }
    return found;
}

bool is_tag(const common_json & node, const char * tag) {
    return type_of(node) == "tag" && node.at("tag").get<std::string>() == tag;
}

common_json any_text() { return common_json{{"type", "until"}, {"delimiters", common_json::array()}}; }

size_t add(common_json & tree, const common_json & node) {
    tree.at("parsers").push_back(node);
    return tree.at("parsers").size() - 1;
}

// Returns whether there was any.
bool read_schemas_as_text(common_json & tree, const std::set<size_t> & nodes) {
    bool changed = false;
    for (const size_t id : nodes) {
        if (!is_tag(tree.at("parsers").at(id), "content")) {
            continue;
        }
        const size_t child = tree.at("parsers").at(id).at("child").get<size_t>();
        if (type_of(tree.at("parsers").at(child)) == "schema") {
            tree.at("parsers").at(child) = any_text();
            changed                      = true;
        }
    }
    return changed;
}

void remove_fences(common_json & tree, const std::set<size_t> & nodes) {
    for (const size_t id : nodes) {
        auto & node = tree.at("parsers").at(id);
        if (type_of(node) == "literal" && node.at("literal").get<std::string>().compare(0, 3, "```") == 0) {
            node = common_json{{"type", "epsilon"}};
        }
    }
}

bool is_call(const common_json & node) { return is_tag(node, "tool-name") || is_tag(node, "tool-open"); }

// All nodes that have a call somewhere below them.
std::set<size_t> with_calls(const common_json & tree, const std::set<size_t> & nodes) {
    std::map<size_t, std::vector<size_t>> parents;
    std::vector<size_t>                   open;
    for (const size_t id : nodes) {
        const auto & node = tree.at("parsers").at(id);
        for (const size_t child : children_of(tree, node)) {
            parents[child].push_back(id);
        }
        if (is_call(node)) {
            open.push_back(id);
        }
    }
    std::set<size_t> found;
    while (!open.empty()) {
        const size_t id = open.back();
        open.pop_back();
        if (found.insert(id).second) {
            open.insert(open.end(), parents[id].begin(), parents[id].end());
        }
    }
    return found;
}

// What must be a call but is none may then be text.
void make_calls_optional(common_json & tree, const std::set<size_t> & nodes) {
    for (const size_t id : nodes) {
        auto & node = tree.at("parsers").at(id);
        if (type_of(node) == "repetition") {
            node["min_count"] = 0;
        }
    }
}

void go_on_after_calls(common_json & tree, const std::set<size_t> & nodes) {
    for (const size_t id : nodes) {
        if (type_of(tree.at("parsers").at(id)) == "end") {
            tree.at("parsers").at(id) = common_json{{"type", "epsilon"}};
        }
    }
    const size_t root    = tree.at("root").get<size_t>();
    const size_t space   = add(tree, common_json{{"type", "space"}});
    const size_t rest    = add(tree, any_text());
    const size_t content = add(tree, common_json{{"type", "tag"}, {"child", rest}, {"tag", "content"}});
    const auto   order   = std::vector<size_t>{root, space, content};
    tree["root"]         = add(tree, common_json{{"type", "sequence"}, {"children", order}});
}

ParserTree described(const common_json & tree, const std::set<size_t> & nodes, const std::string & generation_prompt) {
    static const std::set<std::string> plain_types = {"epsilon", "start", "end", "sequence", "literal", "until", "tag"};

    ParserTree result;
    result.is_plain = true;
    for (const size_t id : nodes) {
        const auto & node     = tree.at("parsers").at(id);
        const auto   type     = type_of(node);
        bool         is_plain = plain_types.count(type) > 0 && (type != "tag" || is_tag(node, "content"));
        if (type == "literal") {
            const auto literal = node.at("literal").get<std::string>();
            is_plain           = generation_prompt.compare(0, literal.size(), literal) == 0;
        } else if (node.contains("delimiters")) {
            for (const auto & delimiter : node.at("delimiters").get<std::vector<std::string>>()) {
                is_plain = false;
                if (!delimiter.empty()) {
                    result.begins_marker[static_cast<unsigned char>(delimiter[0])] = true;
                }
            }
        }
        result.is_plain = result.is_plain && is_plain;
    }
    return result;
}

}  // namespace

ParserTree prepared_parser(const std::string & parser, const std::string & generation_prompt) {
    auto tree  = common_json::parse(parser);
    auto nodes = reachable_from(tree, tree.at("root").get<size_t>());
    if (read_schemas_as_text(tree, nodes)) {
        remove_fences(tree, nodes);
    }
    const auto callers = with_calls(tree, nodes);
    if (!callers.empty()) {
        make_calls_optional(tree, callers);
        go_on_after_calls(tree, nodes);
        nodes = reachable_from(tree, tree.at("root").get<size_t>());
    }
    ParserTree result = described(tree, nodes, generation_prompt);
    result.parser     = common_peg_arena::from_json(tree);
    return result;
}

}  // namespace dmr
