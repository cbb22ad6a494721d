package wal

import "strings"

// SplitTable splits a table's name as written in configuration and mappings: name, schema.name, and either part in double quotes as in SQL,
// so a part may have a dot. Without quotes a name is taken as written, in its own case, and the first dot divides. schema is "" where the
// text has none; ok is false where the quotes do not match.
func SplitTable(text string) (schema, name string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		before, rest, divided := strings.Cut(text, ".")
		if !divided {
			return "", text, text != ""
		}
		schema, text = before, rest
	} else {
		part, rest, closed := unquote(text)
		switch {
		case !closed || rest != "" && rest[0] != '.':
			return "", "", false
		case rest == "":
			return "", part, part != ""
		}
		schema, text = part, rest[1:]
	}
	if strings.HasPrefix(text, `"`) {
		part, rest, closed := unquote(text)
		if !closed || rest != "" {
			return "", "", false
		}
		text = part
	}
	return schema, text, schema != "" && text != ""
}

// unquote reads the quoted identifier at the front of text.
func unquote(text string) (part, rest string, closed bool) {
	for i := 1; i < len(text); i++ {
		if text[i] != '"' {
			continue
		}
		if i+1 < len(text) && text[i+1] == '"' {
			i++
			continue
		}
		return strings.ReplaceAll(text[1:i], `""`, `"`), text[i+1:], true
	}
	return "", "", false
}

// JoinTable writes a table's name in the form read by SplitTable. schema may be "".
func JoinTable(schema, name string) string {
	for _, part := range []*string{&schema, &name} {
		if strings.Contains(*part, ".") || strings.HasPrefix(*part, `"`) {
			*part = quoted(*part)
		}
	}
	if schema == "" {
		return name
	}
	return schema + "." + name
}

// quoted is the part in double quotes as in SQL. No name has a NUL.
func quoted(part string) string {
	return `"` + strings.ReplaceAll(strings.ReplaceAll(part, "\x00", ""), `"`, `""`) + `"`
}
