package e2e

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// The query for Stack Auth in docs/configuration.md is compared with this reference, which follows Stack Auth's own way: two layers of keys
// with dots are merged, defaults are filled in, and the keys are applied to a tree, those with fewer dots first. The query does none of
// these steps.

// stackAuthDatabases are the connection strings of the external databases, by name, of a tenant with the two configurations.
func stackAuthDatabases(branch, environment any) map[string]string {
	tree := stackAuthTree(stackAuthMerged(branch, environment), nil)
	sync, _ := tree["dbSync"].(map[string]any)
	list, _ := sync["externalDatabases"].(map[string]any)
	found := map[string]string{}
	for name, value := range list {
		database, _ := value.(map[string]any)
		dsn, _ := database["connectionString"].(string)
		if name != "" && database["type"] == "postgres" && dsn != "" {
			found[name] = dsn
		}
	}
	return found
}

// stackAuthMerged is the keys of the branch without those that the environment sets, or of which the environment sets a part of the path, and
// the keys of the environment.
func stackAuthMerged(branch, environment any) map[string]any {
	merged, _ := branch.(map[string]any)
	over, _ := environment.(map[string]any)
	merged = maps.Clone(merged)
	if merged == nil {
		merged = map[string]any{}
	}
	for key := range over {
		maps.DeleteFunc(merged, func(k string, _ any) bool { return k == key || strings.HasPrefix(k, key+".") })
	}
	maps.Copy(merged, over)
	return merged
}

// stackAuthTree applies keys to what the path has by default. A key that leads through something other than an object is dropped.
func stackAuthTree(keys map[string]any, path []string) map[string]any {
	tree := map[string]any{}
	if standard, ok := stackAuthDefault(path); ok {
		tree = standard
	}
	for _, key := range slices.SortedStableFunc(maps.Keys(keys), func(a, b string) int { return strings.Count(a, ".") - strings.Count(b, ".") }) {
		segments := strings.Split(key, ".")
		parent := tree
		for _, segment := range segments[:len(segments)-1] {
			parent, _ = parent[segment].(map[string]any)
		}
		if parent == nil {
			continue
		}
		last, whole := segments[len(segments)-1], slices.Concat(path, segments)
		switch value := keys[key].(type) {
		case map[string]any:
			parent[last] = stackAuthTree(value, whole)
		case nil:
			delete(parent, last)
			if standard, ok := stackAuthDefault(whole); ok {
				parent[last] = standard
			}
		default:
			parent[last] = value
		}
	}
	return tree
}

// stackAuthDefault is the value that a path has where nothing is set.
func stackAuthDefault(path []string) (map[string]any, bool) {
	switch strings.Join(path, "/") {
	case "":
		return map[string]any{"dbSync": map[string]any{"externalDatabases": map[string]any{}}}, true
	case "dbSync":
		return map[string]any{"externalDatabases": map[string]any{}}, true
	case "dbSync/externalDatabases":
		return map[string]any{}, true
	}
	return nil, false
}

// stackAuthWriter makes small configurations of all shapes: overlapping keys, nested objects and dots in any mixture, null, values of wrong
// types, arrays, empty names, names with quotes.
type stackAuthWriter struct{ r *rand.Rand }

func (w stackAuthWriter) pick(choices ...string) string { return choices[w.r.IntN(len(choices))] }

// segment is the part of a path at a depth.
func (w stackAuthWriter) segment(depth int) string {
	if w.r.IntN(12) == 0 {
		return w.pick("other", "", "dbSync", "type", "dbSyncs", "externaldatabases")
	}
	switch depth {
	case 0:
		return "dbSync"
	case 1:
		return "externalDatabases"
	case 2:
		return w.pick("crm", "lake", "crm", `it's a "name"`, `back\slash`, "%", "ключ", "0", "type", "")
	case 3:
		return w.pick("type", "connectionString", "type", "connectionString", "types")
	}
	return w.pick("type", "x")
}

// value is one at a path of the depth.
func (w stackAuthWriter) value(depth int) any {
	switch n := w.r.IntN(16); {
	case n == 0:
		return nil
	case n == 1 || depth > 3:
		return []any{nil, "postgres", "postgres", "postgres", "mysql", "", 1.5, true, false, []any{"postgres"}, map[string]any{}, "dsn" + w.pick("1", "2", "3"), "it's \"a\" \\ dsn"}[w.r.IntN(13)]
	case n == 2:
		return []any{map[string]any{"type": "postgres", "connectionString": "in an array"}, nil}
	case n < 9 && depth == 3:
		return map[string]any{"type": "postgres", "connectionString": "dsn" + w.pick("4", "5", "6")}
	}
	return w.object(depth)
}

// object has keys below a path of the depth.
func (w stackAuthWriter) object(depth int) map[string]any {
	object := map[string]any{}
	for range w.r.IntN(4) + 1 {
		at, segments := depth, []string(nil)
		for range w.r.IntN(4) + 1 {
			if at < 5 {
				segments = append(segments, w.segment(at))
				at++
			}
		}
		object[strings.Join(segments, ".")] = w.value(at)
	}
	return object
}

// configuration is the value of the column config.
func (w stackAuthWriter) configuration() any {
	if w.r.IntN(50) == 0 {
		return []any{nil, "text", []any{map[string]any{"dbSync": map[string]any{}}}, map[string]any{}}[w.r.IntN(4)]
	}
	return w.object(0)
}
