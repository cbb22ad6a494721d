package config_test

import (
	"strings"
	"testing"
)

func TestAdminToken(t *testing.T) {
	values := map[string]string{"OUTFLOW_SOURCE_DSN": url, "OUTFLOW_ADMIN_LISTEN": "[::]:8090", "OUTFLOW_ADMIN_TOKEN": "kanarienvogel-0123"}
	c, err := load("", values, nil)
	if err != nil {
		t.Fatal(err)
	}
	if out := printed(t, c); strings.Contains(out, "kanarienvogel") || !strings.Contains(out, "environment OUTFLOW_ADMIN_TOKEN") {
		t.Errorf("the token is shown, or where it came from is not:\n%s", out)
	}
	delete(values, "OUTFLOW_ADMIN_TOKEN")
	if _, err := load("", values, nil); err == nil || !strings.Contains(err.Error(), "OUTFLOW_ADMIN_TOKEN_FILE") {
		t.Errorf("an address that others can reach is allowed without a token: %v", err)
	}
	values["OUTFLOW_ADMIN_LISTEN"] = ""
	if _, err := load("", values, nil); err != nil {
		t.Errorf("admin.listen cannot be switched off: %v", err)
	}
}
