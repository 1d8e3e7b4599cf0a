"""The packages of Debian's main section that the glyphs data set is made from, by the licence of their fonts.

Their names, for a shell:  ``python -m tcc_fast.datasets.glyph_packages``
"""

from __future__ import annotations

BY_LICENCE: dict[str, str] = {
    "Aenigma's own terms: use, change, redistribute; note changes, keep the attribution": "fonts-aenigma",
    "AGPL 3 with font exception": "fonts-urw-base35",
    "Apache 2.0": "fonts-clear-sans fonts-jetbrains-mono fonts-open-sans fonts-roboto-slab fonts-roboto-unhinted",
    "Artistic": "fonts-alee fonts-f500",
    "Bitstream Vera": "fonts-arkpandora fonts-dejavu-core fonts-dejavu-extra",
    "BSD (3 clauses)": "fonts-3270 fonts-go",
    "CC BY 3.0 and Bitstream Vera": "fonts-opendyslexic",
    "CC BY-SA 3.0": "fonts-femkeklaver",
    "CC0 1.0": "fonts-fantasma",
    "GPL 2": "fonts-dustin",
    "GPL 2 or GPL 3 or LGPL 3, with font exception": "fonts-osifont",
    "GPL 2 or later": "fonts-linex fonts-summersby",
    "GPL 2 or later, with font exception": (
        "fonts-adf-accanthis fonts-adf-baskervald fonts-adf-berenis fonts-adf-gillius fonts-adf-ikarius "
        "fonts-adf-irianis fonts-adf-libris fonts-adf-mekanus fonts-adf-oldania fonts-adf-romande "
        "fonts-adf-solothurn fonts-adf-switzera fonts-adf-tribun fonts-adf-universalis fonts-adf-verana "
        "fonts-tlwg-kinnari-otf fonts-tlwg-purisa-otf fonts-tlwg-sawasdee-otf"
    ),
    "GPL 2 or later, with font exception, and OFL 1.1": "fonts-linuxlibertine",
    "GPL 2, with font exception, and OFL 1.1": "fonts-ubuntu-title",
    "GPL 3 or later": "fonts-beteckna",
    "GPL 3 or later, with font exception": "fonts-freefont-otf fonts-tiresias",
    "GPL 3 or later, with font exception, or OFL 1.1": "fonts-oxygen",
    "GPL 3 or later; sources OFL 1.1": "fonts-dkg-handwriting fonts-smc-gayathri fonts-smc-karumbi fonts-smc-manjari",
    "GPL 3, with font exception": "fonts-rufscript",
    "GPL, with font exception": "fonts-sjfonts",
    "GUST (LPPL 1.3c)": "fonts-lmodern",
    "LGPL 2": "fonts-engadget",
    "LGPL 2 or later": "fonts-isabella fonts-staypuft",
    "MIT": "fonts-agave fonts-fanwood fonts-lindenhill fonts-roadgeek t1-teams",
    "MIT and Bitstream Vera": "fonts-hack",
    "OFL 1.0 or 1.1": (
        "fonts-allerta fonts-anonymous-pro fonts-apropal fonts-arapey fonts-averia-gwf fonts-averia-sans-gwf "
        "fonts-averia-serif-gwf fonts-babelstone-modern fonts-bajaderka fonts-bebas-neue fonts-blankenburg "
        "fonts-breip fonts-bwht fonts-cabin fonts-cabinsketch fonts-cantarell fonts-cardo fonts-century-catalogue "
        "fonts-cherrybomb fonts-cmu fonts-comfortaa fonts-comic-neue fonts-courier-prime fonts-crosextra-caladea "
        "fonts-crosextra-carlito fonts-dancingscript fonts-dosis fonts-ebgaramond fonts-ecolier-court "
        "fonts-eurofurence fonts-fantasque-sans fonts-ferrite-core fonts-firacode fonts-gamaliel "
        "fonts-gemunu-libre fonts-gfs-artemisia fonts-gfs-didot fonts-gfs-neohellenic fonts-gfs-theokritos "
        "fonts-gnutypewriter fonts-gotico-antiqua fonts-havana fonts-humor-sans fonts-inconsolata fonts-joscelyn "
        "fonts-junction fonts-jura fonts-karla fonts-kaushanscript fonts-klaudia-berenika fonts-kristi fonts-lato "
        "fonts-league-mono fonts-league-spartan fonts-leckerli-one fonts-lemonada fonts-levien-museum "
        "fonts-liberation2 fonts-lobster fonts-lobstertwo fonts-manrope fonts-monofur fonts-mononoki "
        "fonts-national-park fonts-okolaks fonts-oldstandard fonts-opendin fonts-play fonts-quattrocento "
        "fonts-quicksand fonts-radisnoir fonts-routed-gothic fonts-sil-gentium-basic fonts-sixtyfour "
        "fonts-smc-chilanka fonts-sora fonts-stix fonts-tomsontalks fonts-triod-postnaja fonts-vollkorn "
        "fonts-yanone-kaffeesatz fonts-yrsa-rasa"
    ),
    "OFL 1.1 and Apache 2.0": "fonts-inter",
    "OFL 1.1 or BSD (3 clauses)": "fonts-georgewilliams",
    "OFL 1.1 or LGPL 2.1": "fonts-essays1743",
    "OFL 1.1 or MIT": "fonts-monoid",
    "OFL 1.1, EPL 2.0 and EDL 1.0": "fonts-b612",
    "ParaType": "fonts-paratype",
    "permissive, and public domain": "fonts-ocr-b",
    "public domain": "fonts-goudybookletter fonts-ocr-a fonts-prociono fonts-tuffy",
    "Unlicense": "fonts-glasstty",
}
"""Licence as each package's ``/usr/share/doc/PACKAGE/copyright`` states it for the fonts -> packages."""

PACKAGES: tuple[str, ...] = tuple(sorted(" ".join(BY_LICENCE.values()).split()))

INSTALL = "sudo apt-get install --no-install-recommends $(python -m tcc_fast.datasets.glyph_packages)"

if __name__ == "__main__":
    print(*PACKAGES)
