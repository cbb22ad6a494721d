package deploy

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"outflow/internal/config"
)

// object is a manifest, as far as it is looked at.
type object struct {
	file     string
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Replicas int
		Selector any
		Strategy struct {
			RollingUpdate map[string]int `yaml:"rollingUpdate"`
		}
		Template struct {
			Metadata struct{ Labels, Annotations map[string]string }
			Spec     podSpec
		}
		Ports []struct {
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
		MinAvailable int `yaml:"minAvailable"`
	}
	Data       map[string]string
	StringData map[string]string `yaml:"stringData"`
	Automount  *bool             `yaml:"automountServiceAccountToken"`
}

type podSpec struct {
	Grace           int   `yaml:"terminationGracePeriodSeconds"`
	Automount       *bool `yaml:"automountServiceAccountToken"`
	ServiceLinks    *bool `yaml:"enableServiceLinks"`
	SecurityContext struct {
		RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
		FSGroup        int                   `yaml:"fsGroup"`
		SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	InitContainers []container `yaml:"initContainers"`
	Containers     []container
	Volumes        []volume
}

type volume struct {
	Name      string
	ConfigMap struct{ Name string } `yaml:"configMap"`
	Secret    struct {
		SecretName string `yaml:"secretName"`
	}
}

type container struct {
	Name, Image   string
	RestartPolicy string `yaml:"restartPolicy"`
	Args          []string
	Env           []struct{ Name, Value string }
	Ports         []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	Startup         *probe                                    `yaml:"startupProbe"`
	Liveness        *probe                                    `yaml:"livenessProbe"`
	Readiness       *probe                                    `yaml:"readinessProbe"`
	Resources       struct{ Requests, Limits map[string]any } `yaml:"resources"`
	SecurityContext struct {
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct{ Drop []string }
		RunAsUser                int `yaml:"runAsUser"`
	} `yaml:"securityContext"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// manifests are all objects below kubernetes/.
func manifests(t *testing.T) []object {
	t.Helper()
	var all []object
	err := filepath.WalkDir("kubernetes", func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for decoder := yaml.NewDecoder(f); ; {
			o := object{file: path}
			switch err := decoder.Decode(&o); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				t.Errorf("%s: %v", path, err)
				return nil
			}
			if o.Kind == "" || o.Metadata.Name == "" {
				t.Errorf("%s: an object without kind or name", path)
			}
			all = append(all, o)
		}
	})
	if err != nil || len(all) < 8 {
		t.Fatalf("%d manifests: %v", len(all), err)
	}
	return all
}

func find(t *testing.T, all []object, kind, name string) object {
	t.Helper()
	i := slices.IndexFunc(all, func(o object) bool { return o.Kind == kind && o.Metadata.Name == name })
	if i < 0 {
		t.Fatalf("there is no %s %s", kind, name)
	}
	return all[i]
}

func TestPodsAreLockedDown(t *testing.T) {
	for _, o := range manifests(t) {
		pod := o.Spec.Template.Spec
		if o.Kind == "ServiceAccount" && (o.Automount == nil || *o.Automount) {
			t.Errorf("%s: a token for the Kubernetes API is mounted", o.file)
		}
		if len(pod.Containers) == 0 {
			continue
		}
		if !pod.SecurityContext.RunAsNonRoot || pod.SecurityContext.SeccompProfile.Type != "RuntimeDefault" || pod.SecurityContext.FSGroup == 0 {
			t.Errorf("%s: the pod's security context is %+v", o.file, pod.SecurityContext)
		}
		if pod.Automount == nil || *pod.Automount || pod.ServiceLinks == nil || *pod.ServiceLinks {
			t.Errorf("%s: the pod gets a token or variables of services", o.file)
		}
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			s := c.SecurityContext
			if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
				t.Errorf("%s: container %s has the security context %+v", o.file, c.Name, s)
			}
			if c.Resources.Requests["memory"] == nil || c.Resources.Requests["cpu"] == nil || c.Resources.Limits["memory"] == nil {
				t.Errorf("%s: container %s has the resources %+v", o.file, c.Name, c.Resources)
			}
			if strings.HasSuffix(c.Image, ":latest") || !strings.Contains(c.Image, ":") {
				t.Errorf("%s: container %s runs whatever %s is", o.file, c.Name, c.Image)
			}
		}
	}
}

// The deployment hands the slot over: the new process is there before the old one goes, and that one gets the time it needs.
func TestDeploymentHandsOver(t *testing.T) {
	all := manifests(t)
	d := find(t, all, "Deployment", "outflow")
	if r := d.Spec.Strategy.RollingUpdate; d.Spec.Replicas != 2 || r["maxSurge"] != 1 || r["maxUnavailable"] != 0 {
		t.Errorf("%d replicas, %v", d.Spec.Replicas, r)
	}
	if find(t, all, "PodDisruptionBudget", "outflow").Spec.MinAvailable != 1 {
		t.Error("a drained node may take both processes")
	}
	c := d.Spec.Template.Spec.Containers[0]
	if c.Liveness == nil || c.Readiness == nil || c.Startup == nil {
		t.Error("the deployment lacks a probe")
	}
	sidecar := find(t, all, "StatefulSet", "primary").Spec.Template.Spec.InitContainers[0]
	if sidecar.RestartPolicy != "Always" || sidecar.Readiness != nil || sidecar.Liveness == nil {
		t.Error("the sidecar is no sidecar, or decides whether the primary is ready")
	}
	for _, o := range all {
		if text := o.Data["outflow.yaml"]; text != "" {
			cfg := load(t, o.file, text, nil)
			for _, user := range all {
				pod := user.Spec.Template.Spec
				for _, v := range pod.Volumes {
					if v.ConfigMap.Name == o.Metadata.Name && float64(pod.Grace) <= 1.5*cfg.Sink.ShutdownTimeout.Seconds() {
						t.Errorf("%s: killed after %d s, and sink.shutdown_timeout is %s", user.file, pod.Grace, cfg.Sink.ShutdownTimeout)
					}
				}
			}
		}
	}
}

// Each configuration is accepted, with the variables of the container that mounts it, and every variable means something.
func TestManifestsConfigure(t *testing.T) {
	all := manifests(t)
	secret := find(t, all, "Secret", "outflow")
	seen := 0
	for _, o := range all {
		pod := o.Spec.Template.Spec
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			if !strings.Contains(c.Image, "/outflow:") {
				continue
			}
			seen++
			paths := map[string]string{} // where a volume is mounted, to its config map or secret
			for _, m := range c.VolumeMounts {
				if !m.ReadOnly {
					t.Errorf("%s: %s is mounted for writing", o.file, m.MountPath)
				}
				i := slices.IndexFunc(pod.Volumes, func(v volume) bool { return v.Name == m.Name })
				if i < 0 {
					t.Fatalf("%s: there is no volume %s", o.file, m.Name)
				}
				paths[m.MountPath] = pod.Volumes[i].ConfigMap.Name + pod.Volumes[i].Secret.SecretName
			}
			file := c.Args[slices.Index(c.Args, "--config")+1]
			text := find(t, all, "ConfigMap", paths[filepath.Dir(file)]).Data[filepath.Base(file)]
			env := map[string]string{}
			for _, e := range c.Env {
				if !strings.HasSuffix(e.Name, "_FILE") {
					continue
				}
				value, ok := secret.StringData[filepath.Base(e.Value)]
				if !ok || paths[filepath.Dir(e.Value)] != secret.Metadata.Name {
					t.Errorf("%s: %s names %s, which is not in the secret", o.file, e.Name, e.Value)
				}
				if name := strings.TrimSuffix(e.Name, "_FILE"); !strings.HasPrefix(name, "OUTFLOW_") && !strings.Contains(text, "${"+name+"}") {
					t.Errorf("%s: nothing uses %s", o.file, e.Name)
				}
				mounted := filepath.Join(t.TempDir(), "value")
				if err := os.WriteFile(mounted, []byte(value), 0o600); err != nil {
					t.Fatal(err)
				}
				env[e.Name] = mounted
			}
			load(t, o.file, text, env)
			checkPorts(t, o, c, text)
		}
	}
	if seen != 2 {
		t.Errorf("%d containers run outflow", seen)
	}
}

// load reads a configuration with that environment; nil is one that has every variable.
func load(t *testing.T, label, text string, env map[string]string) *config.Config {
	t.Helper()
	if env == nil {
		env = map[string]string{"OUTFLOW_SOURCE_DSN": "postgres://outflow@db/app", "ACME_DSN": "postgres://w@acme/crm", "OUTFLOW_ADMIN_TOKEN": strings.Repeat("t", 64)}
	}
	file := filepath.Join(t.TempDir(), "outflow.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.LoadOptions{File: file,
		Env: func(name string) (string, bool) {
			value, ok := env[name]
			return value, ok
		},
		Environ: func() (all []string) {
			for name, value := range env {
				all = append(all, name+"="+value)
			}
			return all
		}})
	if err != nil {
		t.Fatalf("%s: the configuration is refused: %v", label, err)
	}
	return cfg
}

// checkPorts compares ports and probes with what the configuration has the program listen on, and with what it serves.
func checkPorts(t *testing.T, o object, c container, text string) {
	t.Helper()
	listen := regexp.MustCompile(`listen: (\S+):(\d+)`).FindStringSubmatch(text)
	if listen == nil || listen[1] != "0.0.0.0" || listen[2] != "8090" || c.Ports[0].ContainerPort != 8090 {
		t.Errorf("%s: it listens on %v, and the port is %v", o.file, listen, c.Ports)
	}
	served := served(t)
	for _, p := range []*probe{c.Startup, c.Liveness, c.Readiness} {
		if p != nil && (p.HTTPGet.Port != c.Ports[0].Name || !slices.Contains(served, p.HTTPGet.Path)) {
			t.Errorf("%s: a probe asks %s of port %s; served are %v", o.file, p.HTTPGet.Path, p.HTTPGet.Port, served)
		}
	}
	if a := o.Spec.Template.Metadata.Annotations; a != nil && (a["prometheus.io/port"] != "8090" || !slices.Contains(served, a["prometheus.io/path"])) {
		t.Errorf("%s: the annotations are %v", o.file, a)
	}
}

// served are the paths that the program answers, as its routes say.
func served(t *testing.T) []string {
	t.Helper()
	routes, err := os.ReadFile("../admin/routes.go")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, m := range regexp.MustCompile(`"GET (/[a-z/]*)"`).FindAllStringSubmatch(string(routes), -1) {
		paths = append(paths, m[1])
	}
	return paths
}
